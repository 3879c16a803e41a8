//! Owns the judgement of a certificate that came in a handshake: whose it is, or why it is refused.

use crate::certificate::{Fingerprint, claimed_name};
use crate::store::{Store, TrustError};
use protocol::HostName;
use rustls::pki_types::{CertificateDer, UnixTime};

/// Who is at the other end of a connection, beyond doubt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// The host.
    pub name: HostName,
    /// The certificate that it showed.
    pub fingerprint: Fingerprint,
}

/// Who is welcome at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This host alone: the one that was called.
    Host(HostName),
    /// One of these.
    OneOf(Vec<HostName>),
    /// Any host that is trusted.
    Anyone,
}

impl Wanted {
    fn includes(&self, name: &HostName) -> bool {
        match self {
            Self::Host(wanted) => wanted == name,
            Self::OneOf(all) => all.contains(name),
            Self::Anyone => true,
        }
    }
}

/// Why a host's certificate is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It was never taken into the trust store.
    #[error(
        "its certificate {fingerprint}, which says that it is host {}, is not trusted here. If it is that host's, take it \
         in: `undying host trust CONFIG {} CERTIFICATE.pem`",
        .claimed.as_ref().map_or("?", |name| name.as_str()), .claimed.as_ref().map_or("NAME", |name| name.as_str())
    )]
    Unknown {
        /// The certificate.
        fingerprint: Fingerprint,
        /// Whose it says it is, which anybody can write.
        claimed: Option<HostName>,
    },
    /// It was revoked.
    #[error("its certificate {fingerprint} was revoked here (`undying host distrust`)")]
    Revoked {
        /// The certificate.
        fingerprint: Fingerprint,
        /// Whose it says it is.
        claimed: Option<HostName>,
    },
    /// Its time is over.
    #[error(
        "the certificate of host {name} expired on {until}; make a new one there with `undying host init CONFIG --renew`, \
         and take it in here with `undying host trust`"
    )]
    Expired {
        /// The host.
        name: HostName,
        /// When.
        until: String,
    },
    /// Its time has not come.
    #[error(
        "the certificate of host {name} is valid only from {from}: the clock of one of the hosts is wrong"
    )]
    NotYetValid {
        /// The host.
        name: HostName,
        /// When.
        from: String,
    },
    /// It is right, but of another host than the one that was called.
    #[error("host {wanted} was called and host {name} answered; see the addresses in the configuration")]
    WrongHost {
        /// Who was called.
        wanted: HostName,
        /// Who answered.
        name: HostName,
    },
    /// It is trusted, but is none of this host's peers.
    #[error("host {name} is trusted but is not among the [peers] in this host's configuration")]
    NoPeer {
        /// The host.
        name: HostName,
    },
    /// The trust store does not say.
    #[error("nobody can be trusted now: {0}")]
    Store(#[from] TrustError),
}

impl Refusal {
    /// Its name in events.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "unknown",
            Self::Revoked { .. } => "revoked",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::WrongHost { .. } => "wrong_host",
            Self::NoPeer { .. } => "no_peer",
            Self::Store(_) => "trust_store",
        }
    }

    /// The host that it is about, so far as is known; in the case of an unknown certificate that is only what it says.
    #[must_use]
    pub fn host(&self) -> Option<&HostName> {
        match self {
            Self::Unknown { claimed, .. } | Self::Revoked { claimed, .. } => claimed.as_ref(),
            Self::Expired { name, .. }
            | Self::NotYetValid { name, .. }
            | Self::WrongHost { name, .. }
            | Self::NoPeer { name } => Some(name),
            Self::Store(_) => None,
        }
    }
}

/// Judges a certificate. Whether the other side has its key is the handshake's to find out.
///
/// # Errors
/// Why it is refused.
pub fn judge(
    store: &Store,
    wanted: &Wanted,
    der: &CertificateDer<'_>,
    now: UnixTime,
) -> Result<Peer, Refusal> {
    let fingerprint = Fingerprint::of(der);
    if store.is_revoked(fingerprint)? {
        return Err(Refusal::Revoked { fingerprint, claimed: claimed_name(der) });
    }
    let known = match wanted {
        Wanted::Host(name) => {
            store.trusted_of(name)?.into_iter().map(|known| (name.clone(), known)).collect()
        }
        _ => store.trusted()?,
    };
    let matching = |known: Vec<(HostName, _)>| {
        known.into_iter().find(|(_, known): &(_, crate::Certificate)| known.fingerprint() == fingerprint)
    };
    // Among all that are trusted only to say why it is refused.
    let found = match (matching(known), wanted) {
        (None, Wanted::Host(_)) => matching(store.trusted()?),
        (found, _) => found,
    };
    let Some((name, certificate)) = found else {
        return Err(Refusal::Unknown { fingerprint, claimed: claimed_name(der) });
    };
    if certificate.is_early(now) {
        return Err(Refusal::NotYetValid { name, from: certificate.valid_from() });
    }
    if certificate.is_expired(now) {
        return Err(Refusal::Expired { name, until: certificate.valid_until() });
    }
    match wanted {
        _ if wanted.includes(&name) && certificate.name() == &name => Ok(Peer { name, fingerprint }),
        Wanted::Host(wanted) => Err(Refusal::WrongHost { wanted: wanted.clone(), name }),
        _ => Err(Refusal::NoPeer { name }),
    }
}

/// Whether a host that was let in is still trusted. Its certificate may have expired meanwhile: that ends no session, for
/// a VM that runs well must not lose its backup over a date.
///
/// # Errors
/// Why it is not.
pub fn still(store: &Store, peer: &Peer) -> Result<(), Refusal> {
    let Peer { name, fingerprint } = peer;
    let claimed = Some(name.clone());
    if store.is_revoked(*fingerprint)? {
        return Err(Refusal::Revoked { fingerprint: *fingerprint, claimed });
    }
    let known = store.trusted_of(name)?.iter().any(|known| known.fingerprint() == *fingerprint);
    if known { Ok(()) } else { Err(Refusal::Unknown { fingerprint: *fingerprint, claimed }) }
}
