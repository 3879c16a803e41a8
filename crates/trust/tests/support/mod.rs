//! Hosts with identities, and two of them meeting over a real socket.

#![allow(dead_code, reason = "each test uses a part of it")]

use protocol::HostName;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use std::fmt::Debug;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trust::{
    Certificate, Connection, HandshakeError, Identity, Lifetime, Purpose, Store, Wanted, accept, connect,
};

pub fn certain<T, E: Debug>(result: Result<T, E>) -> T {
    result.expect("it works")
}

pub fn name(name: &str) -> HostName {
    certain(HostName::new(name))
}

/// A host with an identity.
pub struct Host {
    pub store: Store,
    place: tempfile::TempDir,
}

type Met = (Result<Connection, HandshakeError>, Result<Connection, HandshakeError>);

pub trait Certain {
    fn certain(self) -> (Connection, Connection);
}

impl Certain for Met {
    fn certain(self) -> (Connection, Connection) {
        (certain(self.0), certain(self.1))
    }
}

/// What each side said, and that it says it in words too.
pub fn refusals(met: Met) -> (&'static str, &'static str) {
    let [there, here] = [met.0, met.1].map(|side| side.expect_err("it is refused"));
    assert!(!there.to_string().is_empty() && !here.to_string().is_empty());
    (there.reason(), here.reason())
}

/// Two hosts that trust each other.
pub fn pair() -> (Host, Host) {
    let (alpha, beta) = (Host::new("alpha"), Host::new("beta"));
    alpha.trusts(&beta);
    beta.trusts(&alpha);
    (alpha, beta)
}

impl Host {
    pub fn new(host: &str) -> Self {
        let place = certain(tempfile::tempdir());
        let store = Store::new(place.path(), &name(host));
        certain(store.init(Lifetime::default()));
        Self { store, place }
    }

    pub fn directory(&self) -> PathBuf {
        self.place.path().to_path_buf()
    }

    pub fn certificate(&self) -> Certificate {
        certain(self.store.identity()).certificate().clone()
    }

    pub fn trusts(&self, other: &Self) {
        certain(self.store.trust(other.store.host(), &other.certificate()));
    }

    /// As `trusts`, past the checks of the command.
    pub fn trusts_by_hand(&self, other: &Self) {
        let path = self.place.path().join("trusted").join(format!("{}.pem", other.store.host()));
        self.write(path, &other.certificate().pem());
    }

    /// Takes another identity.
    pub fn becomes(&self, identity: &Identity) {
        self.write(self.place.path().join("identity/host.pem"), &identity.to_pem());
    }

    fn write(&self, path: PathBuf, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        for directory in ["trusted", "revoked"].map(|directory| self.place.path().join(directory)) {
            certain(std::fs::create_dir_all(&directory));
            certain(std::fs::set_permissions(&directory, std::fs::Permissions::from_mode(0o700)));
        }
        certain(std::fs::write(&path, text));
        certain(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)));
    }

    pub fn anyone(&self) -> Wanted {
        Wanted::Anyone
    }

    pub fn calls(&self, other: &Self, wanted: &Wanted) -> Met {
        self.calls_as(other.store.host().as_str(), other, wanted)
    }

    /// Calls a host by this name, and the other one answers.
    pub fn calls_as(&self, called: &str, other: &Self, wanted: &Wanted) -> Met {
        self.meets(called, other, wanted, Purpose::Replication, Purpose::Replication)
    }

    pub fn meets(&self, called: &str, other: &Self, wanted: &Wanted, out: Purpose, into: Purpose) -> Met {
        let listener = certain(TcpListener::bind("127.0.0.1:0"));
        let address = certain(listener.local_addr());
        let (store, called) = (self.store.clone(), name(called));
        let caller = std::thread::spawn(move || {
            let socket = certain(TcpStream::connect(address));
            connect(socket, &store, &called, out, Instant::now() + Duration::from_secs(30))
        });
        let into = other.accepts(&listener, wanted, into);
        (caller.join().expect("no panic"), into)
    }

    pub fn accepts(
        &self,
        listener: &TcpListener,
        wanted: &Wanted,
        purpose: Purpose,
    ) -> Result<Connection, HandshakeError> {
        let (socket, _) = certain(listener.accept());
        accept(socket, &self.store, wanted.clone(), &[purpose], Instant::now() + Duration::from_secs(30))
    }

    pub fn accepts_within(
        &self,
        listener: &TcpListener,
        wanted: &Wanted,
        within: Duration,
    ) -> Result<Connection, HandshakeError> {
        let (socket, _) = certain(listener.accept());
        accept(socket, &self.store, wanted.clone(), &[Purpose::Replication], Instant::now() + within)
    }
}

/// Takes any server for the right one, as `openssl s_client` does, and has no certificate.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What a client without a certificate gets: the first byte, or why not.
pub fn without_certificate(socket: TcpStream) -> io::Result<u8> {
    let mut config = certain(
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13]),
    )
    .dangerous()
    .with_custom_certificate_verifier(Arc::new(Credulous))
    .with_no_client_auth();
    config.alpn_protocols = vec![b"undying-replication".to_vec()];
    let tls = certain(ClientConnection::new(Arc::new(config), certain("host".try_into())));
    let mut byte = [0];
    StreamOwned::new(tls, socket).read_exact(&mut byte)?;
    Ok(byte[0])
}
