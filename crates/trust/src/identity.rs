//! Owns a host's identity: its private key, and the certificate that others know it by.

use crate::certificate::{Certificate, CertificateError, NAME_PREFIX};
use protocol::HostName;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use time::{Duration, OffsetDateTime};

/// A certificate is valid a day before it was made: clocks of hosts differ.
const BEFORE: Duration = Duration::DAY;
/// Days that a certificate is valid where nobody says otherwise: ten years.
pub const DAYS: u32 = 3_650;

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    from: OffsetDateTime,
    until: OffsetDateTime,
}

impl Lifetime {
    /// From now for so many days.
    #[must_use]
    pub fn days(days: u32) -> Self {
        Self::between(-i64::from(BEFORE.whole_seconds() as i32), i64::from(days) * 86_400)
    }

    /// From so many seconds after now until so many seconds after now; negative ones are before now.
    #[must_use]
    pub fn between(from: i64, until: i64) -> Self {
        let now = OffsetDateTime::now_utc();
        Self { from: now + Duration::seconds(from), until: now + Duration::seconds(until) }
    }
}

impl Default for Lifetime {
    fn default() -> Self {
        Self::days(DAYS)
    }
}

/// Why an identity could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Making it.
    #[error("cannot make a key and a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Its certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// Its key.
    #[error("it holds no private key in PEM: {0}")]
    Key(String),
}

/// A key and its certificate.
pub struct Identity {
    certificate: Certificate,
    key: PrivateKeyDer<'static>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({:?})", self.certificate)
    }
}

impl Identity {
    /// Makes a new one. Nothing is written; see [`crate::Store::init`].
    ///
    /// # Errors
    /// If no key can be made.
    pub fn make(name: &HostName, lifetime: Lifetime) -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.not_before = lifetime.from;
        params.not_after = lifetime.until;
        params.distinguished_name.push(DnType::CommonName, name.as_str());
        params.subject_alt_names = vec![SanType::URI(format!("{NAME_PREFIX}{name}").try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.self_signed(&key)?;
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        Self::from_pem(pem.as_bytes())
    }

    /// Reads key and certificate from one PEM text.
    ///
    /// # Errors
    /// If one of them is missing or not right.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let certificate = Certificate::from_pem(pem)?;
        let key =
            PrivateKeyDer::from_pem_slice(pem).map_err(|error| IdentityError::Key(error.to_string()))?;
        Ok(Self { certificate, key })
    }

    /// Key and certificate as one PEM text: a secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        let label = match self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        self.certificate.pem() + &crate::certificate::pem(label, self.key.secret_der())
    }

    /// What others know the host by.
    #[must_use]
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }
}
