//! Owns the stamp of a VM's disks at this host: kept in a file, read before anything is done with the images.

use super::DiskError;
use crate::config::HostConfig;
use disk::journal::{FileStorage, load_stamp, save_stamp};
use protocol::journal::stamp::{Content, Stamp};
use protocol::{Epoch, Session, Term, TermRecord, VmId, VmName};
use std::path::{Path, PathBuf};

/// The stamp's file.
const NAME: &str = "stamp";

/// The label of a VM's disks at this host.
#[derive(Debug)]
pub struct Label {
    vm: VmName,
    directory: PathBuf,
}

impl Label {
    /// The label of this VM here, whether it has been written or not.
    #[must_use]
    pub fn of(config: &HostConfig, vm: &VmName) -> Self {
        Self { vm: vm.clone(), directory: directory(config, vm) }
    }

    /// What the images hold; none if this VM never had disks here.
    ///
    /// # Errors
    /// If the file cannot be read or is no stamp of this VM.
    pub fn read(&self) -> Result<Option<Stamp>, DiskError> {
        // A VM that never had disks here has no directory, and needs none.
        if !self.directory.exists() {
            return Ok(None);
        }
        Ok(load_stamp(&self.storage()?, NAME, VmId::of(&self.vm))?)
    }

    /// Says from now on, power cuts included, that the images hold this.
    ///
    /// # Errors
    /// If it cannot be made durable; then it says what it said before.
    pub fn write(
        &self,
        content: Content,
        term: Term,
        session: Session,
        epoch: Epoch,
    ) -> Result<(), DiskError> {
        let stamp = Stamp { vm: VmId::of(&self.vm), term, session, epoch, content };
        Ok(save_stamp(&self.storage()?, NAME, &stamp)?)
    }

    /// Whether the images here are the newest of this VM, whose newest term the arbiter has recorded. `image` names
    /// them in the error.
    ///
    /// # Errors
    /// If they are not, or not known to be.
    pub fn check_newest(&self, record: Option<&TermRecord>, image: &Path) -> Result<(), DiskError> {
        let stamp = self.read()?;
        let path = || image.to_path_buf();
        let vm = || self.vm.to_string();
        let (stamp, record) = match (stamp, record) {
            (Some(stamp), _) if stamp.content == Content::Filling => {
                return Err(DiskError::Incomplete { path: path(), vm: vm() });
            }
            // Nobody ever ran it, or the arbiter is new: there is nothing to compare with.
            (_, None) => return Ok(()),
            (stamp, Some(record)) => (stamp, record),
        };
        let newest = record.claim.term;
        let owners = stamp.is_some_and(|stamp| {
            stamp.term >= newest && matches!(stamp.content, Content::Running | Content::Stopped)
        });
        if owners {
            return Ok(());
        }
        Err(DiskError::Older {
            path: path(),
            vm: vm(),
            ours: stamp.map_or(0, |stamp| stamp.term.0),
            newest: newest.0,
            owner: record.claim.host.to_string(),
        })
    }

    fn storage(&self) -> Result<FileStorage, DiskError> {
        let failed = |source| DiskError::Place { path: self.directory.clone(), source };
        FileStorage::new(&self.directory).map_err(failed)
    }
}

/// Where this host keeps what it knows of a VM's disks: the label, and a replica's journal.
#[must_use]
pub fn directory(config: &HostConfig, vm: &VmName) -> PathBuf {
    config.state_dir.join("vms").join(vm.as_str()).join("disks")
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::HostName;
    use protocol::asking::Claimant;

    fn label(directory: &Path) -> Label {
        Label { vm: VmName::new("web").unwrap(), directory: directory.join("disks") }
    }

    fn owned(term: u64) -> TermRecord {
        let claimant = Claimant::new(VmName::new("web").unwrap(), HostName::new("beta").unwrap(), 1);
        TermRecord { claim: claimant.claim(Term(term)) }
    }

    #[test]
    fn only_the_owners_disk_of_the_newest_term_is_the_newest() {
        let folder = tempfile::tempdir().unwrap();
        let label = label(folder.path());
        let check = |record: Option<u64>| {
            label.check_newest(record.map(owned).as_ref(), Path::new("web.img")).map_err(|e| e.to_string())
        };
        assert_eq!(check(None), Ok(()), "a new VM");
        assert!(check(Some(1)).unwrap_err().contains("beta owned it in term 1"), "it ran elsewhere only");
        for (content, term, good) in [
            (Content::Running, 2, true),
            (Content::Stopped, 2, true),
            (Content::Running, 1, false),
            (Content::Epoch, 2, false),
            (Content::Filling, 2, false),
        ] {
            label.write(content, Term(term), Session(1), Epoch(3)).unwrap();
            assert_eq!(check(Some(2)).is_ok(), good, "{content:?} of term {term}");
        }
        assert!(check(Some(2)).unwrap_err().contains("incomplete"));
    }

    #[test]
    fn a_damaged_label_is_named_and_decides_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let label = label(folder.path());
        label.write(Content::Running, Term(1), Session(0), Epoch(0)).unwrap();
        std::fs::write(label.directory.join(NAME), b"rubbish").unwrap();
        let error = label.read().unwrap_err().to_string();
        assert!(error.contains("disks/stamp") && error.contains("no stamp"), "{error}");
    }
}
