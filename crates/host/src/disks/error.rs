//! Owns the reasons why a VM's disks cannot be had or used.

use std::path::PathBuf;

/// Why a VM's disks cannot be had or used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// An image.
    #[error(transparent)]
    Image(#[from] disk::ImageError),
    /// An image with QEMU's own format.
    #[error(transparent)]
    Qcow2(#[from] disk::qcow2::Qcow2Error),
    /// An image of which nobody said what it is.
    #[error(
        "{path} begins like a qcow2 image, and the VM file does not say what it is: add `format = \"qcow2\"` to its [[disk]], \
         or `format = \"raw\"` if the guest is to see the image's own bytes (or wrote this itself)"
    )]
    LooksLikeQcow2 {
        /// The image.
        path: PathBuf,
    },
    /// A primary that does not say how a qcow2 image begins.
    #[error(
        "the primary describes {image} as qcow2 and does not say how it begins: is its agent of the same version?"
    )]
    Placeholder {
        /// The image, as the VM file names it.
        image: String,
    },
    /// Serving it.
    #[error(transparent)]
    Export(#[from] disk::ExportError),
    /// No thread that forgets what need not be compared any more.
    #[error("cannot start a thread that tidies the map of the disks' differences: {0}")]
    Cleaner(std::io::Error),
    /// The journal.
    #[error(transparent)]
    Journal(#[from] disk::journal::JournalError),
    /// The difference map.
    #[error(transparent)]
    Differences(#[from] disk::differences::MapError),
    /// What a primary sent of its disks.
    #[error("the changes of the disks cannot be read: {0}")]
    Changes(protocol::wire::disk::DiskError),
    /// A description that contradicts itself.
    #[error("the primary describes {described} disks and gives the sizes of {sizes}")]
    Count {
        /// In the VM's description.
        described: usize,
        /// Sizes that came with it.
        sizes: usize,
    },
    /// A description that contradicts itself, of shared disks.
    #[error("the primary describes {described} shared disks and shows how to find {shown}")]
    CountShared {
        /// In the VM's description.
        described: usize,
        /// What came with it.
        shown: usize,
    },
    /// Hosts cannot be shown that they have the same device.
    #[error(
        "{path} is no file, and `shared = true` needs one on a file system that the hosts share: of a device it cannot be shown \
         that two hosts have the same one"
    )]
    SharedDevice {
        /// The device.
        path: PathBuf,
    },
    /// A shared image beside which nothing can be laid for the other host to find.
    #[error(
        "cannot show another host that it shares the storage of {path}: {source}; the agent must be able to create a file beside \
         the image"
    )]
    CannotShow {
        /// The image.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// An image that is said to be shared and is not, or is to be found elsewhere here.
    #[error(
        "{path} is not the primary's image of this shared disk: {why}. Mount the same storage at both hosts, so that the \
         image has this name here, or take `shared = true` out of the VM file if each host shall have its own copy"
    )]
    NotShared {
        /// The image here.
        path: PathBuf,
        /// What was not found.
        why: String,
    },
    /// The place of an image.
    #[error("cannot use the place of {path}: {source}")]
    Place {
        /// The image.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A device of another size.
    #[error("{path} has {has} bytes, but the disk at the primary has {needs}: both must be equal")]
    Size {
        /// The device.
        path: PathBuf,
        /// Its size.
        has: u64,
        /// The disk's.
        needs: u64,
    },
    /// A file stands where a replica should be, and is not one of this VM.
    #[error(
        "{path} exists and is not known as a disk of VM {vm}: it is not overwritten; move it away or choose another name in the VM file"
    )]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// The VM.
        vm: String,
    },
    /// A replica that no first copy completed.
    #[error(
        "{path} is an incomplete copy of a disk of VM {vm}: start the VM at the host that has the whole one"
    )]
    Incomplete {
        /// The image.
        path: PathBuf,
        /// The VM.
        vm: String,
    },
    /// There is a newer disk elsewhere.
    #[error(
        "{path} holds VM {vm} as of term {ours}, but {owner} owned it in term {newest}, so the disk there is newer: start it \
         there, or accept the loss of what was written since with --accept-older-disk"
    )]
    Older {
        /// The image.
        path: PathBuf,
        /// The VM.
        vm: String,
        /// Its term.
        ours: u64,
        /// The newest term.
        newest: u64,
        /// Its owner.
        owner: String,
    },
}
