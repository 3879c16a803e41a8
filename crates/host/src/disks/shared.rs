//! Owns disks on storage that the hosts share: showing that two hosts see the same image, and whose it is.
//!
//! Before a VM moves, its primary lays a file with a random name and the same content beside each shared image, and the other host
//! must find it there: that it is the same storage is shown, not believed. The primary lets go of the image when the guest stands
//! still and before its last state is sent; the other takes it behind the claim that it won, and the primary takes it back behind
//! a claim of its own. So the image is written in the order of the terms (`docs/design/migration.md`).

use super::format::{self, Formatted};
use super::{DiskError, Disks, Served};
use crate::config::HostConfig;
use disk::{Access, Image, ImageError};
use qemu::VmSpec;
use qemu::spec::DiskSpec;
use serde::{Deserialize, Serialize};
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often it is tried again.
const LOOK: Duration = Duration::from_millis(2);

/// How another host finds a shared image, and knows that it is the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharedImage {
    /// Its size in bytes.
    size: u64,
    /// What the file beside it is named by, and holds.
    proof: u64,
}

/// Files beside shared images that show other hosts which ones they are; they are there until this is dropped.
#[derive(Debug, Default)]
pub struct Proofs(Vec<PathBuf>);

impl Drop for Proofs {
    fn drop(&mut self) {
        for path in &self.0 {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(path = %path.display(), %error, "a file that is of no use any more stays behind");
            }
        }
    }
}

impl Proofs {
    fn lay(&mut self, image: &Image) -> Result<SharedImage, DiskError> {
        let proof = crate::loops::random();
        let path = beside(image.path(), proof);
        let failed = |source| DiskError::CannotShow { path: image.path().to_path_buf(), source };
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        self.0.push(path);
        // A network file system shows it to others once it was written out.
        file.write_all(content(proof).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        Ok(SharedImage { size: image.size(), proof })
    }
}

impl Disks {
    fn shared(&self) -> impl Iterator<Item = &Served> {
        self.disks.iter().filter(|disk| disk.number.is_none())
    }

    /// Those that a guest may write to and that this host may have to hand over.
    #[must_use]
    pub fn handed_over(&self) -> Vec<Arc<Image>> {
        let written = self.shared().filter(|disk| !disk.read_only);
        written.map(|disk| Arc::clone(&disk.image)).collect()
    }

    /// Makes it possible for another host to find the shared images, for as long as the proofs live.
    ///
    /// # Errors
    /// If there is no writing beside an image.
    pub fn show_shared(&self) -> Result<(Vec<SharedImage>, Proofs), DiskError> {
        let mut proofs = Proofs::default();
        let images = self.shared().map(|disk| proofs.lay(&disk.image)).collect::<Result<_, _>>()?;
        Ok((images, proofs))
    }

    /// Why a VM with these disks cannot be protected, if it cannot.
    #[must_use]
    pub fn unprotectable(&self) -> Option<String> {
        self.handed_over().first().map(|image| why_unprotectable(image.path()))
    }
}

/// Why a VM that may write to this shared image cannot be protected.
#[must_use]
pub fn why_unprotectable(image: &Path) -> String {
    format!(
        "its disk {} lies on shared storage: what a lost epoch wrote there could not be taken back. Such a VM can be migrated; \
         to be protected it needs a disk of which each host has its own copy (without `shared = true`)",
        image.display()
    )
}

/// Another host may have these images from now on.
///
/// # Errors
/// If a medium does not take what was written; the images before are let go.
pub fn release(images: &[Arc<Image>]) -> Result<(), ImageError> {
    images.iter().try_for_each(|image| image.release())
}

/// This host has these images from now on. To be done by who has the VM's term, and by nobody else.
///
/// # Errors
/// If one cannot be opened, or somebody holds its lock for longer than `patience`: the server of a network file system may hear
/// late that it was let go.
pub fn take(images: &[Arc<Image>], patience: Duration) -> Result<(), ImageError> {
    let until = Instant::now() + patience;
    images.iter().try_for_each(|image| {
        loop {
            match image.take() {
                Err(ImageError::InUse { .. }) if Instant::now() < until => std::thread::sleep(LOOK),
                taken => return taken,
            }
        }
    })
}

/// Opens the shared images of a VM that is at another host, which showed how to find them.
///
/// # Errors
/// If one is not here, or is another one.
pub fn find(config: &HostConfig, spec: &VmSpec, shown: &[SharedImage]) -> Result<Vec<Formatted>, DiskError> {
    let described = spec.shared_disks().count();
    if described != shown.len() {
        return Err(DiskError::CountShared { described, shown: shown.len() });
    }
    spec.shared_disks().zip(shown).map(|(disk, shown)| find_one(config, disk, shown)).collect()
}

fn find_one(config: &HostConfig, disk: &DiskSpec, shown: &SharedImage) -> Result<Formatted, DiskError> {
    let path = config.disk_path(&disk.image);
    let other = |why: String| DiskError::NotShared { path: path.clone(), why };
    let proof = beside(&path, shown.proof);
    let found = std::fs::read(&proof);
    let found =
        found.map_err(|error| other(format!("what the primary laid beside it is not here ({error})")))?;
    if found != content(shown.proof).as_bytes() {
        return Err(other(format!("{} does not hold what the primary wrote", proof.display())));
    }
    let formatted = format::open_elsewhere(config, disk)?;
    let has = formatted.image.size();
    if has != shown.size {
        return Err(other(format!("it has {has} bytes here and {} there", shown.size)));
    }
    debug_assert_eq!(formatted.image.access() == Access::ReadOnly, disk.read_only);
    Ok(formatted)
}

/// The file that shows whose storage this is.
fn beside(image: &Path, proof: u64) -> PathBuf {
    let mut path = image.as_os_str().to_os_string();
    path.push(format!(".shown-{proof:016x}"));
    path.into()
}

fn content(proof: u64) -> String {
    format!("undying {proof:016x}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 1 << 20;
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Two hosts: what a relative image is to each of them.
    struct Hosts {
        folder: tempfile::TempDir,
        spec: VmSpec,
    }

    impl Hosts {
        fn new(disks: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let text = format!("name = 'web'\nkernel = '/k'\n{disks}");
            Self { folder, spec: VmSpec::parse(&text, "a VM file").unwrap() }
        }

        fn config(&self, directory: &str) -> HostConfig {
            let directory = self.folder.path().join(directory);
            std::fs::create_dir_all(&directory).unwrap();
            let text = format!(
                "name = 'beta'\nlisten = '127.0.0.1:1'\nstate_dir = {directory:?}\ndisk_dir = {directory:?}\napi_socket = '/s'\n[arbiter]\ndirectory = '/a'",
            );
            toml::from_str(&text).unwrap()
        }

        fn serve(&self) -> Disks {
            let config = self.config("shared");
            for disk in &self.spec.disks {
                drop(Image::create(&config.disk_path(&disk.image), SIZE).unwrap());
            }
            let images = self.spec.disks.iter().map(|disk| format::open(&config, disk));
            Disks::serve(&self.spec, images.collect::<Result<_, _>>().unwrap()).unwrap()
        }
    }

    const BOTH: &str = "[[disk]]\nimage = 'a.img'\nshared = true\n[[disk]]\nimage = 'own.img'\n[[disk]]\nimage = 'b.img'\nshared = true\nread_only = true\n";

    #[test]
    fn another_host_finds_what_it_is_shown_and_only_for_as_long() {
        let hosts = Hosts::new(BOTH);
        let (config, ours) = (hosts.config("shared"), hosts.serve());
        let (shown, proofs) = ours.show_shared().unwrap();
        assert_eq!(ours.handed_over().len(), 1, "one is only read");
        let found = find(&config, &hosts.spec, &shown).unwrap();
        let here: Vec<_> = found.iter().map(|found| found.image.is_here()).collect();
        assert_eq!(here, [false, true]);
        drop(proofs);
        assert_eq!(
            std::fs::read_dir(config.disk_path(Path::new(""))).unwrap().count(),
            3,
            "nothing stays behind"
        );
        let error = find(&config, &hosts.spec, &shown).map(drop).unwrap_err().to_string();
        assert!(error.contains("Mount the same storage"), "{error}");
    }

    #[test]
    fn an_image_of_the_same_name_on_other_storage_is_not_taken_for_it() {
        let hosts = Hosts::new("[[disk]]\nimage = 'a.img'\nshared = true\n");
        let ours = hosts.serve();
        let (mut shown, _proofs) = ours.show_shared().unwrap();
        let elsewhere = hosts.config("elsewhere");
        let error = |config: &HostConfig, shown: &[SharedImage]| {
            find(config, &hosts.spec, shown).map(drop).unwrap_err().to_string()
        };
        drop(Image::create(&elsewhere.disk_path(Path::new("a.img")), SIZE).unwrap());
        assert!(error(&elsewhere, &shown).contains("is not here"));
        std::fs::write(beside(&elsewhere.disk_path(Path::new("a.img")), shown[0].proof), "something")
            .unwrap();
        assert!(error(&elsewhere, &shown).contains("does not hold"));
        let here = hosts.config("shared");
        shown[0].size += 512;
        assert!(error(&here, &shown).contains("1049088 there"));
        assert!(error(&here, &[]).contains("1 shared disks and shows how to find 0"));
    }

    #[test]
    fn who_may_write_to_shared_storage_is_not_protected() {
        let unprotectable = |disks: &str| Hosts::new(disks).serve().unprotectable();
        let why = unprotectable(BOTH).unwrap();
        assert!(why.contains("a.img") && why.contains("migrated"), "{why}");
        let read =
            "[[disk]]\nimage = 'own.img'\n[[disk]]\nimage = 'b.img'\nshared = true\nread_only = true\n";
        assert_eq!(unprotectable(read), None);
    }

    #[test]
    fn images_change_hands() {
        let hosts = Hosts::new("[[disk]]\nimage = 'a.img'\nshared = true\n");
        let (config, ours) = (hosts.config("shared"), hosts.serve());
        let (shown, _proofs) = ours.show_shared().unwrap();
        let ours = ours.handed_over();
        let theirs: Vec<_> =
            find(&config, &hosts.spec, &shown).unwrap().into_iter().map(|found| found.image).collect();
        ours[0].write_at(0, b"ours").unwrap();
        std::thread::scope(|scope| {
            // Who may have it waits for who has not quite let go.
            let taker = scope.spawn(|| take(&theirs, PATIENCE));
            std::thread::sleep(LOOK);
            release(&ours).unwrap();
            taker.join().unwrap().unwrap();
        });
        theirs[0].write_at(0, b"thei").unwrap();
        release(&theirs).unwrap();
        take(&ours, PATIENCE).unwrap();
        let mut read = [0; 4];
        ours[0].read_at(0, &mut read).unwrap();
        assert_eq!(&read, b"thei");
    }
}
