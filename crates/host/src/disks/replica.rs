//! Owns a backup's replicas: making them, and writing a primary's changes into them.

use super::format::{Formatted, mark_placeholders};
use super::{DiskError, Disks, Label, Placeholders, SharedImage, differences, finish_journal, shared};
use crate::config::HostConfig;
use disk::qcow2::Header;
use disk::{Access, Holes, Image, ImageError};
use protocol::journal::Stamp;
use protocol::journal::stamp::Content;
use protocol::resync::DiskOffer;
use protocol::wire::disk::read_batch;
use protocol::{Change, Epoch, Session, Term, VmName, What};
use qemu::VmSpec;
use qemu::spec::DiskSpec;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// So many zeroes at its beginning make a device blank: no partition table or file system begins so.
const BLANK: usize = 1 << 20;

/// A VM's disks as its primary describes them.
pub struct Described<'a> {
    /// The VM.
    pub spec: &'a VmSpec,
    /// The sizes in bytes of the images that are copied.
    pub sizes: &'a [u64],
    /// What they must begin with.
    pub placeholders: &'a Placeholders,
    /// How to find those that are shared.
    pub shared: &'a [SharedImage],
}

/// A backup's replicas at the beginning of a session.
pub struct Replicas {
    /// Served to the standby.
    pub disks: Disks,
    /// What the primary is told of them.
    pub offer: DiskOffer,
}

impl Disks {
    /// Makes replicas ready for a session: the copies that this VM has here, or blank ones. A qcow2 replica begins with a
    /// placeholder until its contents are there.
    ///
    /// # Errors
    /// If something stands in their place that is not this VM's, or they cannot be made.
    pub fn make_replicas(
        config: &HostConfig,
        vm: &VmName,
        described: &Described<'_>,
        (term, session): (Term, Session),
    ) -> Result<Replicas, DiskError> {
        let &Described { spec, sizes, placeholders, shared } = described;
        let copied = spec.copied_disks().count();
        if sizes.len() != copied {
            return Err(DiskError::Count { described: copied, sizes: sizes.len() });
        }
        let headers = placeholders.headers(spec.copied_disks())?;
        let shared = shared::find(config, spec, shared)?;
        let label = Label::of(config, vm);
        let stamp = label.read()?;
        let paths: Vec<_> = spec.copied_disks().map(|disk| config.disk_path(&disk.image)).collect();
        for path in paths.iter().filter(|path| path.exists()) {
            if stamp.is_none() && !is_blank(path)? {
                return Err(DiskError::NotOurs { path: path.clone(), vm: vm.to_string() });
            }
        }
        if paths.is_empty() {
            return Ok(Replicas { disks: Self::serve(spec, shared)?, offer: DiskOffer::NoDisks });
        }
        // An image that cannot be looked at now, because somebody has it open, is not given up for that.
        let found = paths.iter().map(|path| size_of(path)).collect::<Result<Vec<_>, _>>()?;
        let kept = stamp.filter(|_| found.iter().zip(sizes).all(|(found, size)| *found == Some(*size)));
        let offer = match kept {
            Some(stamp) => offer_copies(config, vm, described, &headers, stamp)?,
            None => {
                // Before the images go: a map without them would be believed.
                differences::remove(config, vm)?;
                DiskOffer::Blank
            }
        };
        // Before anything is touched: a replica that is half filled must not pass for a disk.
        label.write(Content::Filling, term, session, Epoch(0))?;
        let make = |((path, &size), header): ((&PathBuf, &u64), Option<Header>)| {
            let image = match offer {
                DiskOffer::NoDisks | DiskOffer::Blank => blank(path, size)?,
                DiskOffer::Copies { .. } => Image::open(path, Access::ReadWrite)?,
            };
            if let Some(header) = &header {
                image.write_at(0, &header.placeholder())?;
            }
            Ok::<_, DiskError>(Formatted { image: Arc::new(image), header })
        };
        let images = paths.iter().zip(sizes).zip(headers).map(make).collect::<Result<Vec<_>, _>>()?;
        Ok(Replicas { disks: Self::serve(spec, in_order(spec, images, shared))?, offer })
    }
}

/// In the order of the VM file.
fn in_order(spec: &VmSpec, copied: Vec<Formatted>, shared: Vec<Formatted>) -> Vec<Formatted> {
    let (mut copied, mut shared) = (copied.into_iter(), shared.into_iter());
    let next = |disk: &DiskSpec| if disk.shared { shared.next() } else { copied.next() };
    spec.disks.iter().filter_map(next).collect()
}

/// What is said of the copies here. They are brought to a state that has a name: their journal is applied. The map
/// stays as it is until the session has made a new base, so that an interruption takes nothing from it.
fn offer_copies(
    config: &HostConfig,
    vm: &VmName,
    described: &Described<'_>,
    headers: &[Option<Header>],
    stamp: Stamp,
) -> Result<DiskOffer, DiskError> {
    if let Err(error) = finish_journal(config, vm, described.spec) {
        tracing::warn!(vm = %vm, %error, "the replicas will be compared whole: their journal cannot be applied");
        // Written down before the session begins: the stamp will not say that the replicas lack something.
        differences::remove(config, vm)?;
        return Ok(DiskOffer::Copies { bases: Vec::new(), marked: Vec::new() });
    }
    let map = differences::of_images(config, vm, described.sizes, Some(&stamp))?;
    mark_placeholders(&map, headers)
}

/// The size of the image in bytes; none if it is not there.
fn size_of(path: &Path) -> Result<Option<u64>, DiskError> {
    if path.exists() { Ok(Some(Image::open(path, Access::ReadOnly)?.size())) } else { Ok(None) }
}

fn is_blank(path: &Path) -> Result<bool, DiskError> {
    let image = match Image::open(path, Access::ReadOnly) {
        // Some other file, or a qcow2 image that no agent ever opened.
        Err(ImageError::Size { .. }) => return Ok(false),
        opened => opened?,
    };
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
    let read = read_batch(records, &sizes, |change| {
        if outcome.is_ok()
            && let Some(image) = images.get(usize::from(change.disk))
        {
            outcome = write(image, change);
        }
    });
    read.map_err(DiskError::Changes)?;
    Ok(outcome?)
}

fn write(image: &Image, change: Change<'_>) -> Result<(), disk::ImageError> {
    match change.what {
        What::Data(bytes) => image.write_at(change.offset, bytes),
        // A guest may rely on zeroes where it discarded, so a medium that cannot discard gets zeroes.
        What::Zeroes(len) | What::Discard(len) => image.write_zeroes_at(change.offset, len, Holes::Allowed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::resync::{Base, Run};

    const SIZE: u64 = 1 << 20;

    /// The header of a disk of 64 KiB, with clusters of 512 bytes.
    fn header(corner: u8) -> Header {
        let mut bytes = [0; disk::qcow2::HEAD];
        bytes[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        (bytes[23], bytes[29], bytes[39], bytes[46], bytes[54]) = (9, 1, 2, corner, 2);
        (bytes[59], bytes[99], bytes[103]) = (1, 4, 112);
        Header::parse(&bytes).unwrap()
    }

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

        fn session(&self, size: u64, session: u64) -> DiskOffer {
            self.session_with(size, session, &Placeholders::default()).unwrap().offer
        }

        fn session_with(&self, size: u64, session: u64, with: &Placeholders) -> Result<Replicas, DiskError> {
            let place = (Term(1), Session(session));
            let described = Described { spec: &self.spec, sizes: &[size], placeholders: with, shared: &[] };
            Disks::make_replicas(&self.config, &self.vm, &described, place)
        }

        fn says(&self, content: Content, session: u64) {
            let label = Label::of(&self.config, &self.vm);
            label.write(content, Term(1), Session(session), Epoch(1)).unwrap();
        }
    }

    fn bases(offer: &DiskOffer) -> Vec<u64> {
        match offer {
            DiskOffer::Copies { bases, .. } => bases.iter().map(|base| base.session.0).collect(),
            other => panic!("no copies: {other:?}"),
        }
    }

    #[test]
    fn a_backups_copy_is_its_sessions_state_and_stays_so_while_it_is_filled_again() {
        let host = Host::new();
        assert_eq!(host.session(SIZE, 1), DiskOffer::Blank);
        assert_eq!(bases(&host.session(SIZE, 2)), [0; 0], "half filled, of nothing that is known");
        host.says(Content::Epoch, 2);
        assert_eq!(bases(&host.session(SIZE, 3)), [2]);
        assert_eq!(bases(&host.session(SIZE, 4)), [2], "session 3 was interrupted");
        assert_eq!(host.session(2 * SIZE, 5), DiskOffer::Blank, "another disk");
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
            let offer = DiskOffer::Copies { bases: vec![base], marked: marked.clone() };
            assert_eq!(host.session(SIZE, session), offer, "until another base is made here");
        }
    }

    #[test]
    fn a_qcow2_replica_begins_with_a_header_before_it_has_contents_and_that_is_compared() {
        let mut host = Host::new();
        let text = "name = 'web'\nkernel = '/k'\n[[disk]]\nimage = 'web.img'\nformat = 'qcow2'\n";
        host.spec = VmSpec::parse(text, "a VM file").unwrap();
        let path = host.config.disk_path(Path::new("web.img"));
        let head = || std::fs::read(&path).unwrap()[..disk::qcow2::HEAD].to_vec();
        let placeholders = |corner| Placeholders::of([Some(&header(corner))].into_iter());

        let unsaid = host.session_with(SIZE, 1, &Placeholders::default()).map(|_| ()).unwrap_err();
        assert!(unsaid.to_string().contains("does not say how it begins"), "{unsaid}");
        assert!(!path.exists());

        let blank = host.session_with(SIZE, 1, &placeholders(1)).unwrap();
        assert_eq!((blank.offer, head()), (DiskOffer::Blank, header(1).placeholder().to_vec()));
        let status = &blank.disks.status()[0];
        assert_eq!((status.size, status.image_size), (65_536, Some(SIZE)));
        drop(blank.disks);

        host.says(Content::Epoch, 1);
        for session in [2, 3] {
            let again = host.session_with(SIZE, session, &placeholders(2)).unwrap();
            let base = Base { term: Term(1), session: Session(1) };
            let marked = vec![Run { disk: 0, offset: 0, len: 65_536 }];
            assert_eq!(again.offer, DiskOffer::Copies { bases: vec![base], marked }, "session {session}");
            assert_eq!(head(), header(2).placeholder());
        }
    }

    #[test]
    fn a_copy_that_somebody_has_open_is_not_given_up() {
        let host = Host::new();
        host.session(SIZE, 1);
        host.says(Content::Epoch, 1);
        let image = Image::open(&host.config.disk_path(Path::new("web.img")), Access::ReadWrite).unwrap();
        let refused = host.session_with(SIZE, 2, &Placeholders::default());
        assert!(refused.is_err_and(|error| error.to_string().contains("in use")));
        drop(image);
        assert_eq!(bases(&host.session(SIZE, 2)), [1]);
    }
}
