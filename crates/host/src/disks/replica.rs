//! Owns a backup's replicas: making them, and writing a primary's changes into them.

use super::{DiskError, Disks, Label, differences, finish_journal};
use crate::config::HostConfig;
use disk::{Access, Holes, Image};
use protocol::journal::Stamp;
use protocol::journal::stamp::Content;
use protocol::resync::Offer;
use protocol::wire::disk::{Change, read_batch};
use protocol::{Epoch, Session, Term, VmName};
use qemu::VmSpec;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many zeroes at its beginning make a device blank: no partition table or file system begins so.
const BLANK: usize = 1 << 20;

/// A backup's replicas at the beginning of a session.
pub struct Replicas {
    /// Served to the standby.
    pub disks: Disks,
    /// What the primary is told of them.
    pub offer: Offer,
}

impl Disks {
    /// Makes replicas of these sizes ready for a session: the copies that this VM has here, or blank ones.
    ///
    /// # Errors
    /// If something stands in their place that is not this VM's, or they cannot be made.
    pub fn make_replicas(
        config: &HostConfig,
        vm: &VmName,
        spec: &VmSpec,
        sizes: &[u64],
        (term, session): (Term, Session),
    ) -> Result<Replicas, DiskError> {
        if sizes.len() != spec.disks.len() {
            return Err(DiskError::Count { described: spec.disks.len(), sizes: sizes.len() });
        }
        let label = Label::of(config, vm);
        let stamp = label.read()?;
        let paths: Vec<_> = spec.disks.iter().map(|disk| config.disk_path(&disk.image)).collect();
        for path in paths.iter().filter(|path| path.exists()) {
            if stamp.is_none() && !is_blank(path)? {
                return Err(DiskError::NotOurs { path: path.clone(), vm: vm.to_string() });
            }
        }
        if paths.is_empty() {
            return Ok(Replicas { disks: Self::serve(spec, Vec::new())?, offer: Offer::NoDisks });
        }
        // An image that cannot be looked at now, because somebody has it open, is not given up for that.
        let found = paths.iter().map(|path| size_of(path)).collect::<Result<Vec<_>, _>>()?;
        let kept = stamp.filter(|_| found.iter().zip(sizes).all(|(found, size)| *found == Some(*size)));
        let offer = match kept {
            Some(stamp) => offer_copies(config, vm, spec, sizes, stamp)?,
            None => {
                // Before the images go: a map without them would be believed.
                differences::remove(config, vm)?;
                Offer::Blank
            }
        };
        // Before anything is touched: a replica that is half filled must not pass for a disk.
        label.write(Content::Filling, term, session, Epoch(0))?;
        let make = |(path, &size): (&PathBuf, &u64)| match offer {
            Offer::NoDisks | Offer::Blank => blank(path, size).map(Arc::new),
            Offer::Copies { .. } => Ok(Arc::new(Image::open(path, Access::ReadWrite)?)),
        };
        let images = paths.iter().zip(sizes).map(make).collect::<Result<_, _>>()?;
        Ok(Replicas { disks: Self::serve(spec, images)?, offer })
    }
}

/// What is said of the copies here. They are brought to a state that has a name: their journal is applied. The map
/// stays as it is until the session has made a new base, so that an interruption takes nothing from it.
fn offer_copies(
    config: &HostConfig,
    vm: &VmName,
    spec: &VmSpec,
    sizes: &[u64],
    stamp: Stamp,
) -> Result<Offer, DiskError> {
    if let Err(error) = finish_journal(config, vm, spec) {
        tracing::warn!(vm = %vm, %error, "the replicas will be compared whole: their journal cannot be applied");
        // Written down before the session begins: the stamp will not say that the replicas lack something.
        differences::remove(config, vm)?;
        return Ok(Offer::Copies { bases: Vec::new(), marked: Vec::new() });
    }
    Ok(differences::of_images(config, vm, sizes, Some(&stamp))?.offer())
}

/// The size of the image in bytes; none if it is not there.
fn size_of(path: &Path) -> Result<Option<u64>, DiskError> {
    if path.exists() { Ok(Some(Image::open(path, Access::ReadOnly)?.size())) } else { Ok(None) }
}

fn is_blank(path: &Path) -> Result<bool, DiskError> {
    let image = Image::open(path, Access::ReadOnly)?;
    let mut start = vec![0; usize::try_from(image.size()).unwrap_or(BLANK).min(BLANK)];
    image.read_at(0, &mut start)?;
    Ok(start.iter().all(|&byte| byte == 0))
}

/// An image that reads as zeroes: a new file, or a device of the right size.
fn blank(path: &Path, size: u64) -> Result<Image, DiskError> {
    let failed = |source| DiskError::Place { path: path.to_path_buf(), source };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    match std::fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            let image = Image::open(path, Access::ReadWrite)?;
            if image.size() != size {
                return Err(DiskError::Size { path: path.to_path_buf(), has: image.size(), needs: size });
            }
            image.write_zeroes_at(0, size, Holes::Allowed)?;
            Ok(image)
        }
        Ok(_) => {
            // Opened first: one that is in use is not removed.
            drop(Image::open(path, Access::ReadWrite)?);
            std::fs::remove_file(path).map_err(failed)?;
            Ok(Image::create(path, size)?)
        }
        Err(_) => Ok(Image::create(path, size)?),
    }
}

/// Writes the changes in an unpacked batch into the replicas.
///
/// # Errors
/// If a medium fails; the changes before are written.
pub fn apply(images: &[Arc<Image>], records: &[u8]) -> Result<(), DiskError> {
    let sizes: Vec<u64> = images.iter().map(|image| image.size()).collect();
    let mut outcome = Ok(());
    let read = read_batch(records, &sizes, |disk, change| {
        if outcome.is_ok()
            && let Some(image) = images.get(usize::from(disk))
        {
            outcome = write(image, change);
        }
    });
    read.map_err(DiskError::Changes)?;
    Ok(outcome?)
}

fn write(image: &Image, change: Change<'_>) -> Result<(), disk::ImageError> {
    match change {
        Change::Data { offset, bytes } => image.write_at(offset, bytes),
        // A guest may rely on zeroes where it discarded, so a medium that cannot discard gets zeroes.
        Change::Zeroes { offset, len } | Change::Discard { offset, len } => {
            image.write_zeroes_at(offset, len, Holes::Allowed)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::resync::{Base, Run};

    const SIZE: u64 = 1 << 20;

    struct Host {
        _folder: tempfile::TempDir,
        config: HostConfig,
        vm: VmName,
        spec: VmSpec,
    }

    impl Host {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = format!(
                "name = 'beta'\nlisten = '127.0.0.1:1'\nstate_dir = {:?}\napi_socket = '/s'\n[arbiter]\ndirectory = '/a'",
                folder.path()
            );
            let spec =
                VmSpec::parse("name = 'web'\nkernel = '/k'\n[[disk]]\nimage = 'web.img'\n", "a VM file");
            let (config, vm) = (toml::from_str(&text).unwrap(), VmName::new("web").unwrap());
            Self { _folder: folder, config, vm, spec: spec.unwrap() }
        }

        fn session(&self, size: u64, session: u64) -> Offer {
            let place = (Term(1), Session(session));
            Disks::make_replicas(&self.config, &self.vm, &self.spec, &[size], place).unwrap().offer
        }

        fn says(&self, content: Content, session: u64) {
            let label = Label::of(&self.config, &self.vm);
            label.write(content, Term(1), Session(session), Epoch(1)).unwrap();
        }
    }

    fn bases(offer: &Offer) -> Vec<u64> {
        match offer {
            Offer::Copies { bases, .. } => bases.iter().map(|base| base.session.0).collect(),
            other => panic!("no copies: {other:?}"),
        }
    }

    #[test]
    fn a_backups_copy_is_its_sessions_state_and_stays_so_while_it_is_filled_again() {
        let host = Host::new();
        assert_eq!(host.session(SIZE, 1), Offer::Blank);
        assert_eq!(bases(&host.session(SIZE, 2)), [0; 0], "half filled, of nothing that is known");
        host.says(Content::Epoch, 2);
        assert_eq!(bases(&host.session(SIZE, 3)), [2]);
        assert_eq!(bases(&host.session(SIZE, 4)), [2], "session 3 was interrupted");
        assert_eq!(host.session(2 * SIZE, 5), Offer::Blank, "another disk");
        assert_eq!(bases(&host.session(2 * SIZE, 6)), [0; 0], "the old map is gone with it");
    }

    #[test]
    fn an_old_owners_copy_is_offered_with_what_it_wrote() {
        let host = Host::new();
        host.session(SIZE, 1);
        let base = Base { term: Term(1), session: Session(1) };
        let map = differences::begin_at(&host.config, &host.vm, &[SIZE], base).unwrap();
        host.says(Content::Running, 0);
        map.before_write(0, 70_000, 1).unwrap();
        map.close(|| Ok(())).unwrap();
        let marked = vec![Run { disk: 0, offset: 65_536, len: 65_536 }];
        for session in [2, 3] {
            let offer = Offer::Copies { bases: vec![base], marked: marked.clone() };
            assert_eq!(host.session(SIZE, session), offer, "until another base is made here");
        }
    }

    #[test]
    fn a_copy_that_somebody_has_open_is_not_given_up() {
        let host = Host::new();
        host.session(SIZE, 1);
        host.says(Content::Epoch, 1);
        let image = Image::open(&host.config.disk_path(Path::new("web.img")), Access::ReadWrite).unwrap();
        let place = (Term(1), Session(2));
        let refused = Disks::make_replicas(&host.config, &host.vm, &host.spec, &[SIZE], place);
        assert!(refused.is_err_and(|error| error.to_string().contains("in use")));
        drop(image);
        assert_eq!(bases(&host.session(SIZE, 2)), [1]);
    }
}
