//! Owns writing a file once: whole or not at all, first come first served, on local file systems and on NFS.
//!
//! Steps, after the manner of open(2) on `O_EXCL` over NFS: write a temporary file, fsync it, `link` it to its
//! name, fsync the directory, unlink the temporary file. `link` fails if the name exists, on the server itself, so
//! one of many wins. Its answer may be lost and the repeated call then says `EEXIST` to the winner: so the answer
//! is never believed, the file is read back instead.
//!
//! Directories are opened anew for each operation: opening makes an NFS client revalidate what it has cached of
//! them (close-to-open; Linux fs/nfs/dir.c, `nfs_lookup_verify_inode`). The mount option `nocto` forgoes that.
//!
//! | crash after | leaves |
//! |---|---|
//! | temporary file | a stray temporary file, no record |
//! | link | a whole record and a stray temporary file |
//! | unlink | a whole record |

use crate::record::MAX_RECORD;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

/// Temporary files begin with this: no VM's name, and no record's, does.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// What is wrong, in words for a path of the caller's.
pub(crate) type Failure = (String, io::Error);

fn failed(what: impl Into<String>) -> impl FnOnce(Errno) -> Failure {
    let what = what.into();
    move |errno| (what, errno.into())
}

/// Opens a directory that exists.
pub(crate) fn open_root(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(failed(format!("cannot open {}", path.display())))
}

/// Opens a directory inside another, `None` if there is none.
pub(crate) fn open_directory(root: impl AsFd, name: &str) -> Result<Option<OwnedFd>, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    match rustix::fs::openat(root, name, flags, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed(format!("cannot open the directory {name}"))(errno)),
    }
}

/// Opens a directory inside another, making it if needed; it is durable when this returns.
pub(crate) fn make_directory(root: impl AsFd, name: &str) -> Result<OwnedFd, Failure> {
    match rustix::fs::mkdirat(&root, name, Mode::from_raw_mode(0o700)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed(format!("cannot make the directory {name}"))(errno)),
    }
    sync(&root)?;
    let opened = open_directory(&root, name)?;
    opened.ok_or_else(|| failed(format!("the directory {name} vanished"))(Errno::NOENT))
}

/// Makes a directory's entries durable.
pub(crate) fn sync(directory: impl AsFd) -> Result<(), Failure> {
    rustix::fs::fsync(directory).map_err(failed("cannot flush the directory"))
}

/// The names in a directory.
pub(crate) fn list(directory: impl AsFd) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    let entries = Dir::read_from(directory).map_err(failed("cannot list the directory"))?;
    for entry in entries {
        let entry = entry.map_err(failed("cannot list the directory"))?;
        // A name that is not UTF-8 is none of ours.
        if let Ok(name) = entry.file_name().to_str() {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// The bytes of a file, at most one more than a record may have; `None` if there is no such file.
pub(crate) fn read(directory: impl AsFd, name: &str) -> Result<Option<Vec<u8>>, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(failed(format!("cannot open {name}"))(errno)),
    };
    let mut bytes = Vec::new();
    let result = file.take(MAX_RECORD as u64 + 1).read_to_end(&mut bytes);
    result.map_err(|error| (format!("cannot read {name}"), error))?;
    Ok(Some(bytes))
}

/// Writes `bytes` to `name` unless that exists. Whoever wins, the name has a whole, durable file afterwards: read
/// it to see whose.
pub(crate) fn write_once(directory: impl AsFd, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let staged = Staged::create(&directory)?;
    let linked = staged.fill(bytes).and_then(|()| staged.link(&directory, name));
    // The record must be durable before anyone acts on it.
    let synced = linked.and_then(|()| sync(&directory));
    staged.remove(&directory);
    synced
}

/// Writes `bytes` to `name`, in place of what it was.
pub(crate) fn replace(directory: impl AsFd, name: &str, bytes: &[u8]) -> Result<(), Failure> {
    let staged = Staged::create(&directory)?;
    let filled = staged.fill(bytes);
    let renamed = filled.and_then(|()| {
        rustix::fs::renameat(&directory, &*staged.name, &directory, name)
            .map_err(failed(format!("cannot replace {name}")))
    });
    let synced = renamed.and_then(|()| sync(&directory));
    staged.remove(&directory);
    synced
}

/// A temporary file on its way to become a record. Its methods are the steps between which a crash may come.
pub(crate) struct Staged {
    name: String,
    file: File,
}

impl Staged {
    /// A new file of a name that nobody else uses: crashed writers leave theirs behind.
    pub(crate) fn create(directory: impl AsFd) -> Result<Self, Failure> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("{TEMPORARY}{:016x}-{}-{count}", random(), std::process::id());
            match rustix::fs::openat(&directory, &*name, flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => return Ok(Self { name, file: File::from(fd) }),
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(failed(format!("cannot create {name}"))(errno)),
            }
        }
    }

    /// Writes the whole content and makes it durable.
    pub(crate) fn fill(&self, bytes: &[u8]) -> Result<(), Failure> {
        let written = { &self.file }.write_all(bytes).and_then(|()| self.file.sync_all());
        written.map_err(|error| (format!("cannot write {}", self.name), error))
    }

    /// Gives the file its name, unless that exists.
    pub(crate) fn link(&self, directory: impl AsFd, name: &str) -> Result<(), Failure> {
        match rustix::fs::linkat(&directory, &*self.name, &directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno @ (Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                Err(failed("its file system has no hard links, which the arbiter needs")(errno))
            }
            Err(errno) => Err(failed(format!("cannot link {} to {name}", self.name))(errno)),
        }
    }

    /// Removes the temporary name. A stray one does no harm, so failing is no failure.
    pub(crate) fn remove(self, directory: impl AsFd) {
        let _ = rustix::fs::unlinkat(directory, &*self.name, AtFlags::empty());
    }
}

/// 64 bits that no other process has, from the keys that the standard library takes from the kernel's random numbers
/// for its hash maps. No clock takes part: two hosts may be set to the same time.
pub(crate) fn random() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}
