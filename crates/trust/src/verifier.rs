//! Owns what rustls asks about the other side's certificate.

use crate::judge::{Peer, Refusal, Wanted, judge};
use crate::store::Store;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible,
    SignatureScheme,
};
use std::sync::{Arc, Mutex, PoisonError};

/// Judges the certificate of one handshake and remembers the judgement.
#[derive(Debug)]
pub struct Verifier {
    store: Store,
    wanted: Wanted,
    provider: Arc<CryptoProvider>,
    judged: Mutex<Option<Result<Peer, Refusal>>>,
}

impl Verifier {
    pub fn new(store: &Store, wanted: Wanted, provider: &Arc<CryptoProvider>) -> Arc<Self> {
        let (store, provider) = (store.clone(), Arc::clone(provider));
        Arc::new(Self { store, wanted, provider, judged: Mutex::new(None) })
    }

    /// What was judged; none if the handshake did not come so far.
    pub fn judged(&self) -> Option<Result<Peer, Refusal>> {
        self.judged.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn judge(&self, der: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
        let judged = judge(&self.store, &self.wanted, der, now);
        let told = judged.as_ref().map(|_| ()).map_err(alert);
        *self.judged.lock().unwrap_or_else(PoisonError::into_inner) = Some(judged);
        told
    }

    fn verify_signature(
        &self,
        message: &[u8],
        der: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, der, signed, &self.provider.signature_verification_algorithms)
    }

    fn schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What the other side is told: the kind of the refusal, as an alert of TLS.
fn alert(refusal: &Refusal) -> Error {
    Error::InvalidCertificate(match refusal {
        Refusal::Expired { .. } | Refusal::NotYetValid { .. } => CertificateError::Expired,
        Refusal::Revoked { .. } => CertificateError::Revoked,
        Refusal::Unknown { .. } => CertificateError::UnknownIssuer,
        Refusal::NoPeer { .. } => CertificateError::ApplicationVerificationFailure,
        Refusal::WrongHost { .. } => CertificateError::NotValidForName,
        Refusal::Store(_) => {
            CertificateError::Other(OtherError(Arc::new(std::io::Error::other("no trust store"))))
        }
    })
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        der: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, der, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        der: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(message, der, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes()
    }
}
