//! Owns the arbiter in a directory that all hosts share: NFS, a cluster file system, or one disk in a laboratory.
//!
//! ```text
//! DIR/.undying-arbiter              made by `init`; without it the directory is no arbiter (not mounted?)
//! DIR/VM/term-00000000000000000042  the record of a term
//! DIR/VM/stopped-00000000000000000042   the owner of that term stopped the VM cleanly
//! ```
//! Files are written once and never changed; see the store's steps. The directory is never created here: a missing
//! mount would make two arbiters, and so two lives.

use crate::record::{self, Marker, Stopped};
use crate::store::{self, Failure};
use crate::{Arbiter, ArbiterError, Standing};
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
        let directory = match store::open_directory(&root, vm.as_str()).map_err(|f| self.unreachable(f))? {
            Some(directory) => directory,
            None if wanted == Term(1) => {
                store::make_directory(&root, vm.as_str()).map_err(|f| self.unreachable(f))?
            }
            None => return Err(ArbiterError::Gap { vm: vm.clone(), wanted, newest: Term(0) }),
        };
        let newest = self.newest(vm, &directory)?;
        if wanted < newest {
            let newest = Box::new(self.record(vm, &directory, newest)?);
            return Err(ArbiterError::Stale { wanted, newest });
        }
        if wanted == Term(0) || wanted > newest.next() {
            return Err(ArbiterError::Gap { vm: vm.clone(), wanted, newest });
        }
        if wanted > newest {
            // The predecessor must be readable: nobody may build on a record that says nothing.
            if newest > Term(0) {
                self.record(vm, &directory, newest)?;
            }
            let bytes = record::encode(&TermRecord { claim: claim.clone() });
            store::write_once(&directory, &term_file(wanted), &bytes).map_err(|f| self.unreachable(f))?;
        } else {
            // An earlier life of this claim may have died between link and flush.
            store::sync(&directory).map_err(|f| self.unreachable(f))?;
        }
        self.record(vm, &directory, wanted)
    }

    fn current(&self, vm: &VmName) -> Result<Option<Standing>, ArbiterError> {
        let (root, _) = self.root()?;
        let opened = store::open_directory(&root, vm.as_str()).map_err(|f| self.unreachable(f))?;
        let Some(directory) = opened else { return Ok(None) };
        let newest = self.newest(vm, &directory)?;
        if newest == Term(0) {
            return Ok(None);
        }
        let record = self.record(vm, &directory, newest)?;
        let name = stopped_file(newest);
        let stopped: Option<Stopped> = self.read(vm, &directory, &name)?;
        let claim = &record.claim;
        if stopped.as_ref().is_some_and(|s| s.vm != *vm || s.term != newest || s.host != claim.host) {
            return Err(self.corrupt(vm, &name, "it is of another VM, term or host"));
        }
        Ok(Some(Standing { record, stopped: stopped.is_some() }))
    }

    fn mark_stopped(&self, vm: &VmName, term: Term, host: &HostName) -> Result<(), ArbiterError> {
        let (root, _) = self.root()?;
        let opened = store::open_directory(&root, vm.as_str()).map_err(|f| self.unreachable(f))?;
        let newest = opened.as_ref().map_or(Ok(Term(0)), |directory| self.newest(vm, directory))?;
        let gap = || ArbiterError::Gap { vm: vm.clone(), wanted: term, newest };
        let directory = opened.ok_or_else(gap)?;
        if term > newest || term == Term(0) {
            return Err(gap());
        }
        let record = self.record(vm, &directory, newest)?;
        if term < newest {
            return Err(ArbiterError::Stale { wanted: term, newest: Box::new(record) });
        }
        let owner = record.claim.host;
        if owner != *host {
            return Err(ArbiterError::NotOwner { vm: vm.clone(), term, host: host.clone(), owner });
        }
        let body = Stopped { vm: vm.clone(), term, host: host.clone() };
        store::write_once(&directory, &stopped_file(term), &record::encode(&body))
            .map_err(|f| self.unreachable(f))
    }

    fn identity(&self) -> Result<String, ArbiterError> {
        self.root().map(|(_, marker)| marker.identity)
    }

    fn describe(&self) -> String {
        format!("directory {}", self.path.display())
    }
}
