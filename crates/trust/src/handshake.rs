//! Owns the way to a connection: mutual TLS 1.3, within a time, and a word of welcome.
//!
//! In TLS 1.3 the side that connects is done before the other one has judged its certificate. So the side that accepts
//! says one byte when it has: whoever connects knows then that it was let in, or hears why not.

use crate::connection::Connection;
use crate::deadline::Deadline;
use crate::judge::{Peer, Refusal, Wanted};
use crate::store::{Store, TrustError};
use crate::verifier::Verifier;
use protocol::HostName;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::NoServerSessionStorage;
use rustls::{AlertDescription, ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What is said when a host is let in.
const WELCOME: u8 = b'W';

/// How long a refused host may take to hear that.
const LAST_WORD: Duration = Duration::from_secs(1);
/// How much it may say meanwhile.
const LAST_BYTES: u64 = 64 << 10;

/// What a connection is for. A host that calls the wrong port is told so by the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Replication.
    Replication,
    /// A question to a witness.
    Witness,
    /// What a host asks another one before it is needed.
    Doctor,
}

impl Purpose {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Replication => b"undying-replication",
            Self::Witness => b"undying-witness",
            Self::Doctor => b"undying-doctor",
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// This host does not want the other one.
    #[error("refused: {0}")]
    Refused(Refusal),
    /// The other one showed nothing.
    #[error("refused: it shows no certificate, so it is no host of Undying")]
    NoCertificate,
    /// The other host does not want this one.
    #[error("the other host refuses this one: {0}")]
    RefusedThere(RefusedThere),
    /// It speaks something else.
    #[error("it does not speak as a host of Undying does: {0}")]
    Strange(String),
    /// It took too long.
    #[error("it did not complete the handshake in time")]
    Late,
    /// The connection ended in the middle.
    #[error("the connection ended before the handshake was complete: {0}")]
    Io(io::Error),
    /// This host cannot identify itself.
    #[error(transparent)]
    Own(#[from] TrustError),
}

/// What another host said about this host's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedThere {
    /// It does not know it.
    #[error(
        "it does not trust this host's certificate. Take it in there: `undying host trust CONFIG NAME CERTIFICATE.pem`, with \
         this host's name and identity/certificate.pem of its state directory"
    )]
    Unknown,
    /// Its time is over, or has not come.
    #[error(
        "this host's certificate is not valid by its clock. Compare the clocks; if it expired, make a new one here with \
         `undying host init CONFIG --renew`"
    )]
    Expired,
    /// It was revoked.
    #[error("this host's certificate was revoked there")]
    Revoked,
    /// It is trusted, but no peer.
    #[error("it trusts this host but does not have it among its [peers]")]
    NoPeer,
    /// It called another host.
    #[error("it called another host than this one; see the addresses in its configuration")]
    WrongHost,
    /// It cannot say.
    #[error("its own trust store cannot be used; see its log")]
    Store,
}

impl RefusedThere {
    fn from_alert(alert: AlertDescription) -> Option<Self> {
        Some(match alert {
            AlertDescription::UnknownCA => Self::Unknown,
            AlertDescription::CertificateExpired => Self::Expired,
            AlertDescription::CertificateRevoked => Self::Revoked,
            AlertDescription::AccessDenied => Self::NoPeer,
            AlertDescription::BadCertificate => Self::WrongHost,
            AlertDescription::CertificateUnknown => Self::Store,
            _ => return None,
        })
    }
}

impl HandshakeError {
    /// Its name in events.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.reason(),
            Self::NoCertificate => "no_certificate",
            Self::RefusedThere(RefusedThere::Unknown) => "unknown_there",
            Self::RefusedThere(RefusedThere::Expired) => "expired_there",
            Self::RefusedThere(RefusedThere::Revoked) => "revoked_there",
            Self::RefusedThere(RefusedThere::NoPeer) => "no_peer_there",
            Self::RefusedThere(RefusedThere::WrongHost) => "wrong_host_there",
            Self::RefusedThere(RefusedThere::Store) => "trust_store_there",
            Self::Strange(_) => "no_host",
            Self::Late => "silent",
            Self::Io(_) => "broken_off",
            Self::Own(_) => "own_identity",
        }
    }

    /// Whether it is about trust, and not about a network that lost the other side.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Late | Self::Io(_))
    }

    fn of(error: io::Error, judged: Option<Result<Peer, Refusal>>) -> Self {
        if let Some(Err(refusal)) = judged {
            return Self::Refused(refusal);
        }
        if let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return Self::of_tls(tls);
        }
        match error.kind() {
            io::ErrorKind::TimedOut => Self::Late,
            _ => Self::Io(error),
        }
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::AlertReceived(alert) => RefusedThere::from_alert(*alert)
                .map_or_else(|| Self::Strange(error.to_string()), Self::RefusedThere),
            _ => Self::Strange(error.to_string()),
        }
    }
}

impl From<rustls::Error> for HandshakeError {
    fn from(error: rustls::Error) -> Self {
        Self::of_tls(&error)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Completes the handshake on a connection that another host opened, for one of several purposes.
///
/// # Errors
/// If the other side is not wanted, says nothing or nonsense, or this host has no identity.
pub fn accept(
    socket: TcpStream,
    store: &Store,
    wanted: Wanted,
    purposes: &[Purpose],
    until: Instant,
) -> Result<Connection, HandshakeError> {
    let (provider, identity) = (provider(), store.identity()?);
    let verifier = Verifier::new(store, wanted, &provider);
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::clone(&verifier) as _)
        .with_single_cert(vec![identity.certificate().der().clone()], identity.key())?;
    config.alpn_protocols = purposes.iter().map(|purpose| purpose.name().to_vec()).collect();
    // A ticket would let a host in again without its certificate being judged again.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    let tls = ServerConnection::new(Arc::new(config))?;
    let (mut tls, peer, purpose) = shake_hands(tls.into(), &socket, &verifier, purposes, until)
        .inspect_err(|_| let_it_be_read(&socket, until))?;
    let welcomed = tls.writer().write_all(&[WELCOME]).and_then(|()| {
        let mut socket = Deadline::new(&socket, until);
        while tls.wants_write() {
            tls.write_tls(&mut socket)?;
        }
        Ok(())
    });
    welcomed.map_err(|error| HandshakeError::of(error, None))?;
    Connection::new(tls, socket, peer, purpose).map_err(HandshakeError::Io)
}

/// Completes the handshake on a connection that was opened to a host of this name.
///
/// # Errors
/// If another host answers, or one that is not trusted, or this host is not wanted there.
pub fn connect(
    socket: TcpStream,
    store: &Store,
    host: &HostName,
    purpose: Purpose,
    until: Instant,
) -> Result<Connection, HandshakeError> {
    let (provider, identity) = (provider(), store.identity()?);
    let verifier = Verifier::new(store, Wanted::Host(host.clone()), &provider);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&verifier) as _)
        .with_client_auth_cert(vec![identity.certificate().der().clone()], identity.key())?;
    config.alpn_protocols = vec![purpose.name().to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    // Who is called is known by its certificate; this name goes nowhere.
    let name = ServerName::from(IpAddr::from(Ipv4Addr::UNSPECIFIED));
    let tls = ClientConnection::new(Arc::new(config), name)?;
    let (mut tls, peer, purpose) = shake_hands(tls.into(), &socket, &verifier, &[purpose], until)
        .inspect_err(|_| let_it_be_read(&socket, until))?;
    welcome(&mut tls, &socket, until)?;
    Connection::new(tls, socket, peer, purpose).map_err(HandshakeError::Io)
}

fn shake_hands(
    mut tls: rustls::Connection,
    socket: &TcpStream,
    verifier: &Verifier,
    purposes: &[Purpose],
    until: Instant,
) -> Result<(rustls::Connection, Peer, Purpose), HandshakeError> {
    let mut socket = Deadline::new(socket, until);
    while tls.is_handshaking() || tls.wants_write() {
        match tls.complete_io(&mut socket) {
            Ok((0, 0)) => {
                let end = io::ErrorKind::UnexpectedEof.into();
                return Err(HandshakeError::of(end, verifier.judged()));
            }
            Ok(_) => {}
            Err(error) => return Err(HandshakeError::of(error, verifier.judged())),
        }
    }
    let agreed = purposes.iter().find(|purpose| tls.alpn_protocol() == Some(purpose.name()));
    let Some(&purpose) = agreed else {
        return Err(HandshakeError::Strange("it does not say what the connection is for".into()));
    };
    match verifier.judged() {
        Some(Ok(peer)) => Ok((tls, peer, purpose)),
        Some(Err(refusal)) => Err(HandshakeError::Refused(refusal)),
        None => Err(HandshakeError::NoCertificate),
    }
}

/// A socket that is closed with something unread takes back what was written last: the alert that says why. So what the
/// other side still says is read, for a moment, and thrown away.
fn let_it_be_read(socket: &TcpStream, until: Instant) {
    let _ = socket.shutdown(Shutdown::Write);
    let rest = Deadline::new(socket, until.min(Instant::now() + LAST_WORD));
    let _ = io::copy(&mut rest.take(LAST_BYTES), &mut io::sink());
}

/// Waits for the other side's word that this host was let in.
fn welcome(tls: &mut rustls::Connection, socket: &TcpStream, until: Instant) -> Result<(), HandshakeError> {
    let mut socket = Deadline::new(socket, until);
    let mut word = [0];
    loop {
        match tls.reader().read(&mut word) {
            Ok(1) if word == [WELCOME] => return Ok(()),
            Ok(0) => return Err(HandshakeError::Io(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => return Err(HandshakeError::Strange("its first word is no welcome".into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(HandshakeError::of(error, None)),
        }
        tls.read_tls(&mut socket).map_err(|error| HandshakeError::of(error, None))?;
        tls.process_new_packets()?;
    }
}
