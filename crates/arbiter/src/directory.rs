//! Owns the arbiter in a directory that all hosts share: NFS, a cluster file system, or one disk in a laboratory.
//!
//! ```text
//! DIR/.undying-arbiter              made by `init`; without it the directory is no arbiter (not mounted?)
//! DIR/VM/term-00000000000000000042  the record of a term
//! DIR/VM/stopped-00000000000000000042   the owner of that term stopped the VM cleanly
//! DIR/.token-HOST                   what a host left last, to be found by others; of no VM
//! ```
//! Files of VMs are written once and never changed; see the store's steps. The directory is never created here: a missing
//! mount would make two arbiters, and so two lives.

use crate::record::{self, Marker, Stopped, Token};
use crate::rules::{self, Ruling};
use crate::store::{self, Failure};
use crate::{Arbiter, ArbiterError, Standing, View};
use protocol::{Claim, HostName, Term, TermRecord, VmName};
use serde::de::DeserializeOwned;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// The file that marks a directory as an arbiter.
const MARKER: &str = ".undying-arbiter";

/// Number of digits of a term in a file's name: as many as the largest has.
const DIGITS: usize = 20;

/// The arbiter in a shared directory.
#[derive(Debug, Clone)]
pub struct DirectoryArbiter {
    path: PathBuf,
}

fn term_file(term: Term) -> String {
    format!("term-{:0DIGITS$}", term.0)
}

fn stopped_file(term: Term) -> String {
    format!("stopped-{:0DIGITS$}", term.0)
}

fn token_file(host: &HostName) -> String {
    format!(".token-{host}")
}

/// Makes `path`, an existing directory, an arbiter, and returns it. One that is an arbiter already stays as it is.
///
/// # Errors
/// If the directory is missing, cannot be written, or its file system has no hard links.
pub fn init(path: &Path) -> Result<DirectoryArbiter, ArbiterError> {
    let arbiter = DirectoryArbiter::new(path);
    let root = store::open_root(path).map_err(|f| arbiter.unreachable(f))?;
    let identity = format!("{:016x}{:016x}", store::random(), store::random());
    store::write_once(&root, MARKER, &record::encode(&Marker { identity }))
        .map_err(|f| arbiter.unreachable(f))?;
    arbiter.identity()?;
    Ok(arbiter)
}

impl DirectoryArbiter {
    /// The arbiter at `path`. Nothing is looked at yet: a directory that is missing now may be mounted later.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_path_buf() }
    }

    fn unreachable(&self, (what, source): Failure) -> ArbiterError {
        ArbiterError::Unreachable { arbiter: self.describe(), what, source }
    }

    /// Opens the directory and makes sure that it is the arbiter. Everything else is done relative to what was
    /// opened, so an unmount in between cannot lead elsewhere.
    fn root(&self) -> Result<(OwnedFd, Marker), ArbiterError> {
        let root = store::open_root(&self.path).map_err(|f| self.unreachable(f))?;
        let bytes = store::read(&root, MARKER).map_err(|f| self.unreachable(f))?;
        let Some(bytes) = bytes else {
            let what = format!(
                "{} has no file {MARKER}: it is not mounted, or was never made an arbiter by `undying arbiter init`",
                self.path.display()
            );
            return Err(self.unreachable((what, io::ErrorKind::NotFound.into())));
        };
        let path = self.path.join(MARKER);
        let marker = record::decode(&bytes).map_err(|why| ArbiterError::Corrupt { path, why })?;
        Ok((root, marker))
    }

    /// The newest term that a VM's directory has.
    fn newest(&self, vm: &VmName, directory: &OwnedFd) -> Result<Term, ArbiterError> {
        let mut newest = Term(0);
        for name in store::list(directory).map_err(|f| self.unreachable(f))? {
            let Some(digits) = name.strip_prefix("term-") else { continue };
            let term = digits.parse().ok().map(Term).filter(|&term| term_file(term) == name);
            let term = term.ok_or_else(|| self.corrupt(vm, &name, "its name is no term's"))?;
            newest = newest.max(term);
        }
        Ok(newest)
    }

    fn corrupt(&self, vm: &VmName, name: &str, why: impl Into<String>) -> ArbiterError {
        ArbiterError::Corrupt { path: self.path.join(vm.as_str()).join(name), why: why.into() }
    }

    fn read<T: DeserializeOwned>(
        &self,
        vm: &VmName,
        directory: &OwnedFd,
        name: &str,
    ) -> Result<Option<T>, ArbiterError> {
        let bytes = store::read(directory, name).map_err(|f| self.unreachable(f))?;
        bytes.map(|bytes| record::decode(&bytes).map_err(|why| self.corrupt(vm, name, why))).transpose()
    }

    fn open(&self, root: &OwnedFd, vm: &VmName) -> Result<Option<OwnedFd>, ArbiterError> {
        store::open_directory(root, vm.as_str()).map_err(|f| self.unreachable(f))
    }

    /// The newest record of a VM, whose directory may not exist.
    fn newest_record(
        &self,
        vm: &VmName,
        directory: Option<&OwnedFd>,
    ) -> Result<Option<TermRecord>, ArbiterError> {
        let Some(directory) = directory else { return Ok(None) };
        let newest = self.newest(vm, directory)?;
        (newest > Term(0)).then(|| self.record(vm, directory, newest)).transpose()
    }

    /// The newest record, with whether its owner stopped the VM.
    fn standing(
        &self,
        vm: &VmName,
        directory: &OwnedFd,
        record: TermRecord,
    ) -> Result<Standing, ArbiterError> {
        let claim = &record.claim;
        let name = stopped_file(claim.term);
        let stopped: Option<Stopped> = self.read(vm, directory, &name)?;
        if stopped.as_ref().is_some_and(|s| s.vm != *vm || s.term != claim.term || s.host != claim.host) {
            return Err(self.corrupt(vm, &name, "it is of another VM, term or host"));
        }
        Ok(Standing { record, stopped: stopped.is_some() })
    }

    /// The record of a term that must exist.
    fn record(&self, vm: &VmName, directory: &OwnedFd, term: Term) -> Result<TermRecord, ArbiterError> {
        let name = term_file(term);
        let record: Option<TermRecord> = self.read(vm, directory, &name)?;
        // It was listed or linked a moment ago; that it is gone is the file system's doing.
        let gone = || (format!("{}/{name} vanished", vm.as_str()), io::ErrorKind::NotFound.into());
        let record = record.ok_or_else(|| self.unreachable(gone()))?;
        if record.claim.vm != *vm || record.claim.term != term {
            let why = format!("it is of term {} of VM {}", record.claim.term, record.claim.vm);
            return Err(self.corrupt(vm, &name, why));
        }
        Ok(record)
    }
}

impl Arbiter for DirectoryArbiter {
    fn claim(&self, claim: &Claim) -> Result<TermRecord, ArbiterError> {
        let (vm, wanted) = (&claim.vm, claim.term);
        let (root, _) = self.root()?;
        let opened = self.open(&root, vm)?;
        // The predecessor must be readable: nobody may build on a record that says nothing.
        let newest = self.newest_record(vm, opened.as_ref())?;
        let ruling = rules::judge(claim, newest.as_ref())?;
        let directory = match opened {
            Some(directory) => directory,
            None => store::make_directory(&root, vm.as_str()).map_err(|f| self.unreachable(f))?,
        };
        match ruling {
            Ruling::Free => {
                let bytes = record::encode(&TermRecord { claim: claim.clone() });
                store::write_once(&directory, &term_file(wanted), &bytes)
            }
            // An earlier life of this claim may have died between link and flush.
            Ruling::Stands => store::sync(&directory),
        }
        .map_err(|f| self.unreachable(f))?;
        self.record(vm, &directory, wanted)
    }

    fn look(&self, vm: &VmName) -> Result<View, ArbiterError> {
        let (root, marker) = self.root()?;
        let opened = self.open(&root, vm)?;
        let newest = self.newest_record(vm, opened.as_ref())?;
        let standing = match (newest, &opened) {
            (Some(record), Some(directory)) => Some(self.standing(vm, directory, record)?),
            _ => None,
        };
        Ok(View { identity: marker.identity, standing })
    }

    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError> {
        let (root, _) = self.root()?;
        let opened = self.open(&root, vm)?;
        let newest = self.newest_record(vm, opened.as_ref())?;
        rules::may_stop(vm, term, host, newest.as_ref())?;
        let directory = opened.expect("the VM has a record, so it has a directory");
        let body = Stopped { vm: vm.clone(), term, host: host.clone() };
        store::write_once(&directory, &stopped_file(term), &record::encode(&body))
            .map_err(|f| self.unreachable(f))
    }

    fn identity(&self) -> Result<String, ArbiterError> {
        self.root().map(|(_, marker)| marker.identity)
    }

    fn leave_token(&self, host: &HostName, token: u64) -> Result<(), ArbiterError> {
        let (root, _) = self.root()?;
        let body = record::encode(&Token { host: host.clone(), token });
        store::replace(&root, &token_file(host), &body).map_err(|f| self.unreachable(f))
    }

    fn token(&self, host: &HostName) -> Result<Option<u64>, ArbiterError> {
        let (root, _) = self.root()?;
        let name = token_file(host);
        let Some(bytes) = store::read(&root, &name).map_err(|f| self.unreachable(f))? else {
            return Ok(None);
        };
        let corrupt = |why| ArbiterError::Corrupt { path: self.path.join(&name), why };
        let found: Token = record::decode(&bytes).map_err(corrupt)?;
        if found.host == *host { Ok(Some(found.token)) } else { Err(corrupt("it is of another host".into())) }
    }

    fn vms(&self) -> Result<Vec<VmName>, ArbiterError> {
        let (root, _) = self.root()?;
        let mut vms = Vec::new();
        for name in store::list(&root).map_err(|f| self.unreachable(f))? {
            let Ok(vm) = VmName::new(&name) else { continue };
            let opened = match store::open_directory(&root, &name) {
                // Some other file of that name.
                Err((_, error)) if error.kind() == io::ErrorKind::NotADirectory => continue,
                opened => opened.map_err(|f| self.unreachable(f))?,
            };
            if self.newest_record(&vm, opened.as_ref())?.is_some() {
                vms.push(vm);
            }
        }
        vms.sort();
        Ok(vms)
    }

    fn describe(&self) -> String {
        format!("directory {}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Staged;
    use protocol::Grant;
    use std::fs;

    fn claim(term: u64, host: &str, nonce: u64) -> Claim {
        let (vm, host) = (VmName::new("web").unwrap(), HostName::new(host).unwrap());
        Claim { vm, term: Term(term), host, nonce }
    }

    fn arbiter() -> (tempfile::TempDir, DirectoryArbiter) {
        let directory = tempfile::tempdir().unwrap();
        let arbiter = init(directory.path()).unwrap();
        (directory, arbiter)
    }

    fn won(arbiter: &DirectoryArbiter, claim: &Claim) -> bool {
        Grant::from_record(claim, &arbiter.claim(claim).unwrap()).is_some()
    }

    /// What a claim does, up to a crash after some step.
    fn crash(arbiter: &DirectoryArbiter, claim: &Claim, written: Option<usize>, linked: bool) {
        let (root, _) = arbiter.root().unwrap();
        let directory = store::make_directory(&root, claim.vm.as_str()).unwrap();
        let bytes = record::encode(&TermRecord { claim: claim.clone() });
        let staged = Staged::create(&directory).unwrap();
        staged.fill(&bytes[..written.unwrap_or(bytes.len())]).unwrap();
        if linked {
            staged.link(&directory, &term_file(claim.term)).unwrap();
        }
    }

    #[test]
    fn a_crash_before_the_link_leaves_no_record_and_nothing_in_the_way() {
        for written in [Some(0), Some(30), None] {
            let (_guard, arbiter) = arbiter();
            let dead = claim(1, "alpha", 1);
            crash(&arbiter, &dead, written, false);
            assert_eq!(arbiter.current(&dead.vm).unwrap(), None, "{written:?}");
            assert!(won(&arbiter, &claim(1, "beta", 2)), "{written:?}");
            assert!(!won(&arbiter, &dead), "the crashed claimant comes back too late");
        }
    }

    #[test]
    fn a_crash_after_the_link_leaves_the_dead_claimant_as_winner() {
        let (_guard, arbiter) = arbiter();
        let dead = claim(1, "alpha", 1);
        crash(&arbiter, &dead, None, true);
        assert!(!won(&arbiter, &claim(1, "beta", 2)));
        assert!(won(&arbiter, &dead), "asking again finds the record");
        assert!(won(&arbiter, &claim(2, "beta", 3)), "and the next term can be had");
    }

    #[test]
    fn a_finished_claim_leaves_no_temporary_file() {
        let (guard, arbiter) = arbiter();
        assert!(won(&arbiter, &claim(1, "alpha", 1)));
        assert!(!won(&arbiter, &claim(1, "beta", 2)));
        let names: Vec<_> = fs::read_dir(guard.path().join("web")).unwrap().collect();
        assert_eq!(names.len(), 1, "{names:?}");
    }

    #[test]
    fn a_missing_directory_and_an_unmounted_one_are_unreachable_and_stay_untouched() {
        let guard = tempfile::tempdir().unwrap();
        let missing = guard.path().join("missing");
        let unmounted = guard.path().join("unmounted");
        fs::create_dir(&unmounted).unwrap();
        for path in [&missing, &unmounted] {
            let arbiter = DirectoryArbiter::new(path);
            let claim = claim(1, "alpha", 1);
            let errors = [
                arbiter.claim(&claim).unwrap_err(),
                arbiter.current(&claim.vm).unwrap_err(),
                arbiter.mark_stopped(&claim.vm, Term(1), &claim.host).unwrap_err(),
                arbiter.identity().unwrap_err(),
            ];
            assert!(errors.iter().all(ArbiterError::is_unreachable), "{errors:?}");
            assert!(errors[0].to_string().contains(path.to_str().unwrap()), "{}", errors[0]);
        }
        assert!(init(&missing).unwrap_err().is_unreachable(), "init makes no directory");
        assert!(!missing.exists());
        assert_eq!(fs::read_dir(&unmounted).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_comes_back_is_reachable_again() {
        let (guard, arbiter) = arbiter();
        let (here, away) = (guard.path().join("mnt"), guard.path().join("away"));
        fs::create_dir(&here).unwrap();
        drop(arbiter);
        let arbiter = init(&here).unwrap();
        let mine = claim(1, "alpha", 1);
        assert!(won(&arbiter, &mine));
        fs::rename(&here, &away).unwrap();
        assert!(arbiter.claim(&mine).unwrap_err().is_unreachable());
        fs::rename(&away, &here).unwrap();
        assert!(won(&arbiter, &mine));
    }

    #[test]
    fn init_twice_keeps_the_identity_and_the_records() {
        let (guard, arbiter) = arbiter();
        assert!(won(&arbiter, &claim(1, "alpha", 1)));
        let again = init(guard.path()).unwrap();
        assert_eq!(again.identity().unwrap(), arbiter.identity().unwrap());
        assert!(!won(&again, &claim(1, "beta", 2)));
        let (_guard, other) = super::tests::arbiter();
        assert_ne!(other.identity().unwrap(), arbiter.identity().unwrap());
    }

    /// Everything that asks for the newest record refuses to go on, and names the file.
    fn assert_corrupt(arbiter: &DirectoryArbiter, file: &Path) {
        let vm = VmName::new("web").unwrap();
        let host = HostName::new("alpha").unwrap();
        let errors = [
            arbiter.claim(&claim(1, "alpha", 1)).unwrap_err(),
            arbiter.claim(&claim(2, "beta", 9)).unwrap_err(),
            arbiter.current(&vm).unwrap_err(),
            arbiter.mark_stopped(&vm, Term(1), &host).unwrap_err(),
        ];
        for error in errors {
            let ArbiterError::Corrupt { path, .. } = &error else { panic!("{error}") };
            assert_eq!(path, file, "{error}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_trusted_is_refused_by_name() {
        let (guard, arbiter) = arbiter();
        assert!(won(&arbiter, &claim(1, "alpha", 1)));
        let file = guard.path().join("web").join(term_file(Term(1)));
        let whole = fs::read(&file).unwrap();
        let of_another = record::encode(&TermRecord { claim: claim(3, "alpha", 1) });
        let torn = &whole[..whole.len() / 2];
        let mut flipped = whole.clone();
        flipped[60] ^= 1;
        for bad in [&b""[..], torn, &flipped, &of_another, &vec![b' '; record::MAX_RECORD + 1]] {
            fs::write(&file, bad).unwrap();
            assert_corrupt(&arbiter, &file);
        }
        fs::write(&file, &whole).unwrap();
        let stray = guard.path().join("web").join("term-2");
        fs::write(&stray, &whole).unwrap();
        assert_corrupt(&arbiter, &stray);
    }

    #[test]
    fn a_stop_mark_that_cannot_be_trusted_is_refused() {
        let (guard, arbiter) = arbiter();
        let mine = claim(1, "alpha", 1);
        assert!(won(&arbiter, &mine));
        let file = guard.path().join("web").join(stopped_file(Term(1)));
        let host = HostName::new("beta").unwrap();
        let of_another = record::encode(&Stopped { vm: mine.vm.clone(), term: Term(1), host });
        for bad in [&b""[..], &of_another] {
            fs::write(&file, bad).unwrap();
            assert!(matches!(arbiter.current(&mine.vm), Err(ArbiterError::Corrupt { .. })));
        }
    }
}
