//! Owns what the agent must know of qcow2 images. What is in them is QEMU's: it stacks its own driver on the bytes
//! that are served, so replication sees clusters and tables as it sees any other bytes.

mod header;
mod room;

pub use header::{HEAD, Header, Unfit};

use crate::image::{Access, Image, ImageError};
use std::io;
use std::path::{Path, PathBuf};

/// Why a qcow2 image cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Qcow2Error {
    /// As any image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// For what it is.
    #[error("disk image {} cannot be used: {why}", .path.display())]
    Unfit {
        /// The image.
        path: PathBuf,
        /// What it is.
        why: Unfit,
    },
    /// It may become larger than its device.
    #[error(
        "{} has {has} bytes, and a qcow2 image of a disk of {virtual_size} bytes may come to need {needs}: make the device \
         larger, or use `format = \"raw\"` on it",
        .path.display()
    )]
    Device {
        /// The device.
        path: PathBuf,
        /// Its size.
        has: u64,
        /// What it must have.
        needs: u64,
        /// Bytes that the guest sees.
        virtual_size: u64,
    },
    /// Its file cannot become as large as it may have to.
    #[error(
        "qcow2 image {} may grow to {needs} bytes, and its file cannot be made so large (as a hole, without taking \
         space): {source}; put it on a file system that has files of this size",
        .path.display()
    )]
    Grow {
        /// The image.
        path: PathBuf,
        /// What it must have.
        needs: u64,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// Opens and locks the qcow2 image at `path`. One that is to be written is first made as large as it may ever become:
/// the new part is a hole and takes no space.
///
/// # Errors
/// As [`Image::open`]; if it is no qcow2 image, or one that cannot be replicated as it is; or if it cannot grow.
pub fn open(path: &Path, access: Access) -> Result<(Image, Header), Qcow2Error> {
    let mut image = Image::open_any_size(path, access)?;
    let header = header_of(&image)?;
    let malformed = Unfit::Malformed("the size of its disk");
    let needs = room::room(&header).ok_or(Qcow2Error::Unfit { path: path.into(), why: malformed })?;
    if access == Access::ReadWrite && image.size() < needs {
        if !image.is_file() {
            let (has, virtual_size) = (image.size(), header.virtual_size());
            return Err(Qcow2Error::Device { path: path.into(), has, needs, virtual_size });
        }
        image.grow(needs).map_err(|source| Qcow2Error::Grow { path: path.into(), needs, source })?;
    }
    image.check_size()?;
    Ok((image, header))
}

/// Opens the qcow2 image at `path` that another host has.
///
/// # Errors
/// As [`Image::open_elsewhere`]; if it is no qcow2 image, or not of the kind that is served.
pub fn open_elsewhere(path: &Path) -> Result<(Image, Header), Qcow2Error> {
    let image = Image::open_elsewhere(path)?;
    let header = header_of(&image)?;
    Ok((image, header))
}

fn header_of(image: &Image) -> Result<Header, Qcow2Error> {
    let unfit = |why| Qcow2Error::Unfit { path: image.path().into(), why };
    let mut head = [0; HEAD];
    if image.size() < HEAD as u64 {
        return Err(unfit(Unfit::Magic));
    }
    image.read_at(0, &mut head)?;
    Header::parse(&head).map_err(unfit)
}

/// Whether the image begins as a qcow2 image does.
///
/// # Errors
/// If the medium fails.
pub fn looks_like_one(image: &Image) -> Result<bool, ImageError> {
    let mut magic = [0; header::MAGIC.len()];
    image.read_at(0, &mut magic)?;
    Ok(magic == header::MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(folder: &tempfile::TempDir, bytes: &[u8]) -> PathBuf {
        let path = folder.path().join("disk");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_file_gets_its_final_size_once_and_as_a_hole() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        // No whole sector at the end, as compressed images have it.
        let path = at(&folder, &[&header::tests::plain()[..], &[7; 1001]].concat());
        let (image, header) = open(&path, Access::ReadWrite).unwrap();
        assert!(image.size() > 2 << 30 && header.virtual_size() == 1 << 30);
        assert!(image.size().is_multiple_of(header.cluster()));
        let mut kept = [0; 512];
        image.read_at(1024, &mut kept).unwrap();
        assert_eq!((kept[..489].to_vec(), &kept[489..]), (vec![7; 489], &[0; 23][..]));
        let size = image.size();
        drop(image);
        assert!(std::fs::metadata(&path).unwrap().blocks() < 64);
        assert_eq!(open(&path, Access::ReadWrite).unwrap().0.size(), size);
        assert_eq!(open(&path, Access::ReadOnly).unwrap().0.size(), size);
    }

    #[test]
    fn one_that_is_only_read_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = at(&folder, &[&header::tests::plain()[..], &[7; 512]].concat());
        assert_eq!(open(&path, Access::ReadOnly).unwrap().0.size(), 1024);
    }

    #[test]
    fn what_is_none_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for bytes in [&[0; 4096][..], &[], b"QFI\xfb"] {
            let path = at(&folder, bytes);
            let error = open(&path, Access::ReadWrite).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("no qcow2 image"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
        let mut backed = header::tests::plain();
        backed[15] = 1;
        let error = open(&at(&folder, &backed), Access::ReadWrite).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("backing file") && error.contains("qemu-img convert"), "{error}");
    }
}
