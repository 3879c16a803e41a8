//! Owns one certificate as far as hosts are concerned: its fingerprint, the host that it names, its dates.

use protocol::HostName;
use rustls::pki_types::CertificateDer;
pub use rustls::pki_types::UnixTime;
use rustls::pki_types::pem::PemObject;
use std::fmt;
use std::time::Duration;
use time::OffsetDateTime;
use webpki::{EndEntityCert, KeyUsage};

/// What stands before a host's name in a certificate: an alternative name of the kind URI, which takes every name that a
/// host may have.
pub(crate) const NAME_PREFIX: &str = "undying:";

/// Why bytes are no certificate of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not PEM, or not one certificate.
    #[error("it holds no certificate in PEM: {0}")]
    Pem(String),
    /// More than one.
    #[error("it holds {0} certificates; give one")]
    Several(usize),
    /// Not a certificate.
    #[error("it is no certificate that can be used: {0}")]
    Der(String),
    /// It does not say whose it is.
    #[error("it names no host of Undying; was it made by `undying host init`?")]
    NoName,
}

/// SHA-256 of a certificate: what people compare, and what a certificate is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of these bytes.
    #[must_use]
    pub fn of(der: &[u8]) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, der);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        Self(bytes)
    }

    /// As a file name: 64 digits without anything between them.
    #[must_use]
    pub fn plain(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl fmt::Display for Fingerprint {
    /// As `openssl x509 -fingerprint -sha256` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if at == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b':').collect();
        let wrong =
            || format!("{text:?} is no SHA-256 fingerprint: 64 hexadecimal digits, with or without colons");
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(pairs) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16).ok_or_else(wrong);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// A certificate that names a host.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: CertificateDer<'static>,
    fingerprint: Fingerprint,
    name: HostName,
    not_before: UnixTime,
    not_after: UnixTime,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certificate({} {})", self.name, self.fingerprint)
    }
}

impl Certificate {
    /// Reads the one certificate of a PEM text.
    ///
    /// # Errors
    /// If there is none, there are several, or it is not a host's.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        let mut all = Self::all_from_pem(pem)?;
        match (all.pop(), all.len()) {
            (Some(one), 0) => Ok(one),
            (None, _) => Err(CertificateError::Pem("there is no certificate".into())),
            (Some(_), more) => Err(CertificateError::Several(more + 1)),
        }
    }

    /// Reads all certificates of a PEM text; there may be none.
    ///
    /// # Errors
    /// If one is not a host's.
    pub fn all_from_pem(pem: &[u8]) -> Result<Vec<Self>, CertificateError> {
        CertificateDer::pem_slice_iter(pem)
            .map(|der| Self::from_der(der.map_err(|error| CertificateError::Pem(error.to_string()))?))
            .collect()
    }

    /// Takes a certificate as it comes in a handshake.
    ///
    /// # Errors
    /// If it is not a host's: damaged, not signed by itself, or without a host's name.
    pub fn from_der(der: CertificateDer<'_>) -> Result<Self, CertificateError> {
        let der = der.into_owned();
        let (not_before, not_after) = (dates(&der, Bound::Before)?, dates(&der, Bound::After)?);
        let name = claimed_name(&der).ok_or(CertificateError::NoName)?;
        let fingerprint = Fingerprint::of(&der);
        Ok(Self { der, fingerprint, name, not_before, not_after })
    }

    /// What it is known by.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The host that it says it is of.
    #[must_use]
    pub fn name(&self) -> &HostName {
        &self.name
    }

    /// Its bytes.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The same as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        pem("CERTIFICATE", &self.der)
    }

    /// The day from which it is valid.
    #[must_use]
    pub fn valid_from(&self) -> String {
        day(self.not_before)
    }

    /// The last day on which it is valid.
    #[must_use]
    pub fn valid_until(&self) -> String {
        day(self.not_after)
    }

    /// Whether it is valid only later.
    #[must_use]
    pub fn is_early(&self, now: UnixTime) -> bool {
        now < self.not_before
    }

    /// Whether it was valid only earlier.
    #[must_use]
    pub fn is_expired(&self, now: UnixTime) -> bool {
        now > self.not_after
    }

    /// Whether it will be expired in this time.
    #[must_use]
    pub fn expires_within(&self, now: UnixTime, within: Duration) -> bool {
        self.is_expired(UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs()).saturating_add(within)))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bound {
    Before,
    After,
}

/// A date of a certificate, which is checked on the way: it must be right at its dates, and signed by itself.
fn dates(der: &CertificateDer<'_>, bound: Bound) -> Result<UnixTime, CertificateError> {
    let at = if bound == Bound::Before { 0 } else { u64::MAX };
    let wrong = |error: webpki::Error| CertificateError::Der(error.to_string());
    let checked = |seconds| check(der, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
    // The verifier knows the dates and tells them when it is asked about a time outside of them.
    let date = match checked(at) {
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => not_before,
        Err(webpki::Error::CertExpired { not_after, .. }) => not_after,
        Err(error) => return Err(wrong(error)),
        Ok(()) => return Ok(UnixTime::since_unix_epoch(Duration::from_secs(at))),
    };
    checked(date.as_secs()).map_err(wrong)?;
    Ok(date)
}

fn check(der: &CertificateDer<'_>, at: UnixTime) -> Result<(), webpki::Error> {
    let certificate = EndEntityCert::try_from(der)?;
    let anchor = [webpki::anchor_from_trusted_cert(der)?];
    let usage = KeyUsage::client_auth();
    certificate.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchor, &[], at, usage, None, None)?;
    Ok(())
}

/// The host that a certificate, trusted or not, says it is of.
pub(crate) fn claimed_name(der: &CertificateDer<'_>) -> Option<HostName> {
    let certificate = EndEntityCert::try_from(der).ok()?;
    certificate.valid_uri_names().find_map(|uri| HostName::new(uri.strip_prefix(NAME_PREFIX)?).ok())
}

fn day(at: UnixTime) -> String {
    let seconds = i64::try_from(at.as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).map_or_else(|_| "ever".into(), |at| at.date().to_string())
}

/// PEM of these bytes.
pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(label, der), config)
}
