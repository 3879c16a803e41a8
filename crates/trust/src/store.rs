//! Owns the files of trust below a host's state directory.
//!
//! | file | what |
//! |---|---|
//! | `identity/host.pem` | this host's certificate and key: a secret |
//! | `identity/certificate.pem` | the certificate alone, to be carried to other hosts |
//! | `identity/next.pem`, `identity/next-certificate.pem` | the same of an identity that was made and is not in use yet |
//! | `trusted/NAME.pem` | the certificates, one or two, by which host NAME is known here |
//! | `revoked/SHA256.pem` | a certificate that is never accepted again, whatever else says |
//!
//! They are read at every handshake, so what an operator changes takes effect at once, without the agent being told. All
//! are their owner's alone, and are refused if they are not.

use crate::certificate::{Certificate, CertificateError, Fingerprint};
use crate::files;
use crate::identity::{Identity, IdentityError, Lifetime};
use protocol::HostName;
use rustls::pki_types::UnixTime;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Certificates by which one host may be known: the one in use, and the next.
pub const MAX_TRUSTED: usize = 2;

/// What is wrong with the files of trust.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file cannot be used.
    #[error("cannot {what} {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// Others may read or change it.
    #[error(
        "{path} has mode {mode:04o}: other users may read or change it, and whoever does can pass for this host or be \
         trusted by it. Mend it with `chmod {right:03o} {path}`; if anybody may have read a key in it, make a new one \
         with `undying host init CONFIG --renew`"
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What it should be.
        right: u32,
    },
    /// It is somebody else's.
    #[error("{path} belongs to user {owner}, this is user {me}; mend it with `chown {me} {path}`")]
    Owner {
        /// The file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        me: u32,
    },
    /// No identity was made yet.
    #[error("this host has no identity: {path} is missing. Make it, once, with `undying host init CONFIG`")]
    NoIdentity {
        /// The file.
        path: PathBuf,
    },
    /// An identity was made before.
    #[error(
        "this host has an identity already, {fingerprint}; a new one would be unknown to all other hosts. To replace it \
         without a gap: `undying host init CONFIG --renew`"
    )]
    HasIdentity {
        /// The one in use.
        fingerprint: Fingerprint,
    },
    /// There is nothing to switch to.
    #[error("there is no new identity to switch to; make one with `undying host init CONFIG --renew`")]
    NothingNext,
    /// A file with an identity in it is not right.
    #[error("{path} is not right: {source}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: Box<IdentityError>,
    },
    /// The identity is another host's.
    #[error(
        "the identity in {path} is that of host {found}, but this is host {name}; was its state directory copied?"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: HostName,
        /// Who we are.
        name: HostName,
    },
    /// No key could be made.
    #[error(transparent)]
    Make(#[from] IdentityError),
    /// A file with certificates in it is not right.
    #[error("{path} is not right: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: CertificateError,
    },
    /// A certificate of another host.
    #[error("this certificate is of host {found}, not of {name}; was the wrong file copied?")]
    OtherName {
        /// What it says.
        found: HostName,
        /// What was expected.
        name: HostName,
    },
    /// It was revoked here.
    #[error(
        "certificate {fingerprint} was revoked at this host and is never taken again; make a new one at host {name}: \
         `undying host init CONFIG --renew`"
    )]
    Revoked {
        /// The host.
        name: HostName,
        /// The certificate.
        fingerprint: Fingerprint,
    },
    /// It is of no use any more.
    #[error(
        "this certificate of host {name} expired on {until}; make a new one there: `undying host init CONFIG --renew`"
    )]
    Expired {
        /// The host.
        name: HostName,
        /// When.
        until: String,
    },
    /// One too many.
    #[error(
        "host {name} is known by {MAX_TRUSTED} certificates already, one in use and one next: {known}. Take back the one \
         that is not used any more: `undying host distrust CONFIG {name} --fingerprint SHA256`"
    )]
    Full {
        /// The host.
        name: HostName,
        /// Their fingerprints.
        known: String,
    },
    /// There is nothing to take back.
    #[error(
        "no certificate of host {name} is trusted here; `undying host identities CONFIG` lists those that are"
    )]
    NotTrusted {
        /// The host.
        name: HostName,
    },
    /// The names of files in a directory of ours.
    #[error("{path} does not belong here: its name is no host's, with `.pem` behind it")]
    Stray {
        /// The file.
        path: PathBuf,
    },
}

/// The files of trust of one host.
#[derive(Debug, Clone)]
pub struct Store {
    state_dir: PathBuf,
    host: HostName,
}

impl Store {
    /// Those below the state directory of this host. Nothing is read yet.
    #[must_use]
    pub fn new(state_dir: &Path, host: &HostName) -> Self {
        Self { state_dir: state_dir.to_path_buf(), host: host.clone() }
    }

    /// Whose they are.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.host
    }

    fn identity_dir(&self) -> PathBuf {
        self.state_dir.join("identity")
    }

    fn in_use(&self) -> PathBuf {
        self.identity_dir().join("host.pem")
    }

    fn next(&self) -> PathBuf {
        self.identity_dir().join("next.pem")
    }

    /// The certificate to be carried to other hosts.
    #[must_use]
    pub fn certificate_path(&self) -> PathBuf {
        self.identity_dir().join("certificate.pem")
    }

    /// The certificate of the identity that is not in use yet.
    #[must_use]
    pub fn next_certificate_path(&self) -> PathBuf {
        self.identity_dir().join("next-certificate.pem")
    }

    fn trusted_dir(&self) -> PathBuf {
        self.state_dir.join("trusted")
    }

    fn trusted_path(&self, name: &HostName) -> PathBuf {
        self.trusted_dir().join(format!("{name}.pem"))
    }

    fn revoked_dir(&self) -> PathBuf {
        self.state_dir.join("revoked")
    }

    fn revoked_path(&self, fingerprint: Fingerprint) -> PathBuf {
        self.revoked_dir().join(format!("{}.pem", fingerprint.plain()))
    }

    /// Held while files are changed: two commands at a time would each undo the other's.
    fn lock(&self) -> Result<File, TrustError> {
        for directory in [self.identity_dir(), self.trusted_dir(), self.revoked_dir()] {
            files::make_private_directory(&directory)?;
        }
        let directory = self.identity_dir();
        let failed = |what| files::failed(&directory, what);
        let file = File::open(&directory).map_err(failed("open"))?;
        file.lock().map_err(failed("lock"))?;
        Ok(file)
    }

    /// Makes this host's identity, once.
    ///
    /// # Errors
    /// If it has one, or it cannot be written.
    pub fn init(&self, lifetime: Lifetime) -> Result<Certificate, TrustError> {
        let _lock = self.lock()?;
        match self.identity() {
            Err(TrustError::NoIdentity { .. }) => {}
            found => {
                return Err(TrustError::HasIdentity { fingerprint: found?.certificate().fingerprint() });
            }
        }
        let identity = Identity::make(&self.host, lifetime)?;
        self.keep(&identity, &self.in_use(), &self.certificate_path())
    }

    /// Makes the identity that shall follow the one in use. It is not used before [`Store::switch`].
    ///
    /// # Errors
    /// If there is none to follow, or it cannot be written.
    pub fn renew(&self, lifetime: Lifetime) -> Result<Certificate, TrustError> {
        let _lock = self.lock()?;
        self.identity()?;
        let identity = Identity::make(&self.host, lifetime)?;
        self.keep(&identity, &self.next(), &self.next_certificate_path())
    }

    /// Puts the next identity into use, for new connections. The old one's key is gone with it.
    ///
    /// # Errors
    /// If there is none, or the files cannot be changed.
    pub fn switch(&self) -> Result<Certificate, TrustError> {
        let _lock = self.lock()?;
        let next = match self.read_identity(&self.next()) {
            Err(TrustError::NoIdentity { .. }) => return Err(TrustError::NothingNext),
            read => read?,
        };
        files::rename(&self.next(), &self.in_use())?;
        files::rename(&self.next_certificate_path(), &self.certificate_path())?;
        Ok(next.certificate().clone())
    }

    fn keep(&self, identity: &Identity, secret: &Path, public: &Path) -> Result<Certificate, TrustError> {
        files::write_private(secret, identity.to_pem().as_bytes())?;
        files::write_private(public, identity.certificate().pem().as_bytes())?;
        Ok(identity.certificate().clone())
    }

    /// The identity in use.
    ///
    /// # Errors
    /// If there is none, others may read it, or it is another host's.
    pub fn identity(&self) -> Result<Identity, TrustError> {
        self.read_identity(&self.in_use())
    }

    /// The certificate of the identity that is not in use yet, if there is one.
    ///
    /// # Errors
    /// If it is not right.
    pub fn next_certificate(&self) -> Result<Option<Certificate>, TrustError> {
        match self.read_identity(&self.next()) {
            Ok(next) => Ok(Some(next.certificate().clone())),
            Err(TrustError::NoIdentity { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_identity(&self, path: &Path) -> Result<Identity, TrustError> {
        let Some(pem) = files::read_private(path)? else {
            return Err(TrustError::NoIdentity { path: path.to_path_buf() });
        };
        files::check_private(&self.identity_dir())?;
        let wrong = |source| TrustError::Identity { path: path.to_path_buf(), source: Box::new(source) };
        let identity = Identity::from_pem(&pem).map_err(wrong)?;
        let found = identity.certificate().name().clone();
        if found != self.host {
            return Err(TrustError::Foreign { path: path.to_path_buf(), found, name: self.host.clone() });
        }
        Ok(identity)
    }

    /// Takes a certificate of this host into the trust store. One that is there already stays.
    ///
    /// # Errors
    /// If it is another host's, revoked, expired, or one too many.
    pub fn trust(&self, name: &HostName, certificate: &Certificate) -> Result<(), TrustError> {
        let _lock = self.lock()?;
        let fingerprint = certificate.fingerprint();
        if certificate.name() != name {
            return Err(TrustError::OtherName { found: certificate.name().clone(), name: name.clone() });
        }
        if self.is_revoked(fingerprint)? {
            return Err(TrustError::Revoked { name: name.clone(), fingerprint });
        }
        if certificate.is_expired(UnixTime::now()) {
            return Err(TrustError::Expired { name: name.clone(), until: certificate.valid_until() });
        }
        let mut known = self.trusted_of(name)?;
        if known.iter().any(|known| known.fingerprint() == fingerprint) {
            return Ok(());
        }
        if known.len() >= MAX_TRUSTED {
            let known: Vec<_> = known.iter().map(|known| known.fingerprint().to_string()).collect();
            return Err(TrustError::Full { name: name.clone(), known: known.join(" and ") });
        }
        known.push(certificate.clone());
        self.write_trusted(name, &known)
    }

    fn write_trusted(&self, name: &HostName, known: &[Certificate]) -> Result<(), TrustError> {
        let path = self.trusted_path(name);
        if known.is_empty() {
            return files::remove(&path);
        }
        let pem: String = known.iter().map(Certificate::pem).collect();
        files::write_private(&path, pem.as_bytes())
    }

    /// Revokes a host's certificates, or the one with this fingerprint, even if it was never trusted here. Returns what was
    /// revoked.
    ///
    /// # Errors
    /// If there is nothing to revoke, or the files cannot be changed.
    pub fn distrust(
        &self,
        name: &HostName,
        one: Option<Fingerprint>,
    ) -> Result<Vec<Fingerprint>, TrustError> {
        let _lock = self.lock()?;
        let known = self.trusted_of(name)?;
        let (gone, kept): (Vec<_>, Vec<_>) =
            known.into_iter().partition(|known| one.is_none_or(|one| one == known.fingerprint()));
        let mut revoked: Vec<_> = gone.iter().map(Certificate::fingerprint).collect();
        // First of all: the list of the revoked wins over all else.
        for certificate in &gone {
            files::write_private(
                &self.revoked_path(certificate.fingerprint()),
                certificate.pem().as_bytes(),
            )?;
        }
        if let Some(one) = one.filter(|_| gone.is_empty()) {
            files::write_private(&self.revoked_path(one), format!("of host {name}\n").as_bytes())?;
            revoked.push(one);
        }
        if revoked.is_empty() {
            return Err(TrustError::NotTrusted { name: name.clone() });
        }
        self.write_trusted(name, &kept)?;
        Ok(revoked)
    }

    /// The certificates by which a host is known; none if it is not.
    ///
    /// # Errors
    /// If the files cannot be read, are not right, or somebody else could have changed them.
    pub fn trusted_of(&self, name: &HostName) -> Result<Vec<Certificate>, TrustError> {
        let path = self.trusted_path(name);
        let Some(pem) = files::read_private(&path)? else { return Ok(Vec::new()) };
        files::check_private(&self.trusted_dir())?;
        Certificate::all_from_pem(&pem).map_err(|source| TrustError::Certificate { path, source })
    }

    /// Every host that is trusted, by name.
    ///
    /// # Errors
    /// As [`Store::trusted_of`], and if there are other files among them.
    pub fn trusted(&self) -> Result<Vec<(HostName, Certificate)>, TrustError> {
        let mut all = Vec::new();
        for path in self.list(&self.trusted_dir())? {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            let Ok(name) = HostName::new(stem) else { return Err(TrustError::Stray { path }) };
            all.extend(self.trusted_of(&name)?.into_iter().map(|certificate| (name.clone(), certificate)));
        }
        Ok(all)
    }

    /// The fingerprints of all that was revoked.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn revoked(&self) -> Result<Vec<Fingerprint>, TrustError> {
        let all = self.list(&self.revoked_dir())?.into_iter().map(|path| {
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            stem.parse().map_err(|_| TrustError::Stray { path })
        });
        all.collect()
    }

    /// Whether a certificate was revoked here.
    ///
    /// # Errors
    /// If that cannot be said: then nobody may be let in.
    pub fn is_revoked(&self, fingerprint: Fingerprint) -> Result<bool, TrustError> {
        let path = self.revoked_path(fingerprint);
        path.try_exists().map_err(files::failed(&path, "look at"))
    }

    /// The files of a directory, in order, without those that are being written.
    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>, TrustError> {
        let failed = |what| files::failed(directory, what);
        let entries = match std::fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            read => read.map_err(failed("read"))?,
        };
        files::check_private(directory)?;
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed("read"))?.path();
            if path.extension().is_some_and(|extension| extension == "pem") {
                all.push(path);
            }
        }
        all.sort();
        Ok(all)
    }

    /// Looks at everything once, so that an agent does not begin with what it would stumble over later.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<Identity, TrustError> {
        let identity = self.identity()?;
        self.trusted()?;
        self.revoked()?;
        Ok(identity)
    }
}

#[cfg(test)]
mod tests;
