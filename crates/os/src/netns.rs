//! Owns network namespaces, named as `ip netns` names them: bind mounts under `/run/netns`.
//!
//! A namespace belongs to a thread. To work in one, use [`Netns::run`]; it leaves the calling thread where it is.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "/run/netns";
/// The calling thread's own namespace.
const CURRENT: &str = "/proc/thread-self/ns/net";

/// What went wrong with a namespace.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} network namespace {name}: {source}")]
pub struct NetnsError {
    /// What was tried.
    pub action: &'static str,
    /// The namespace's name.
    pub name: String,
    /// The kernel's reason; `PermissionDenied` without root.
    #[source]
    pub source: io::Error,
}

/// A network namespace, kept alive while this is.
#[derive(Debug)]
pub struct Netns {
    name: String,
    fd: OwnedFd,
}

impl Netns {
    /// Makes a namespace and names it, as `ip netns add` does. It stays until [`delete`].
    ///
    /// # Errors
    /// `AlreadyExists` if there is one of this name; `PermissionDenied` without root.
    pub fn create(name: &str) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError { action: "create", name: name.into(), source };
        prepare_directory().map_err(failed)?;
        let path = path_of(name).map_err(failed)?;
        OpenOptions::new().write(true).create_new(true).open(&path).map_err(failed)?;
        let made = on_fresh_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            mount(Some(CURRENT), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
            Ok(())
        });
        if let Err(source) = made {
            // Only to leave no file behind; the reason that counts is the first.
            let _ = std::fs::remove_file(&path);
            return Err(failed(source));
        }
        Self::open(name)
    }

    /// The namespace of this name.
    ///
    /// # Errors
    /// `NotFound` if there is none.
    pub fn open(name: &str) -> Result<Self, NetnsError> {
        let failed = |source| NetnsError { action: "open", name: name.into(), source };
        let file = File::open(path_of(name).map_err(failed)?).map_err(failed)?;
        Ok(Self { name: name.into(), fd: file.into() })
    }

    /// The calling thread's namespace.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn current() -> Result<Self, NetnsError> {
        let name = "of this thread";
        let failed = |source| NetnsError { action: "open", name: name.into(), source };
        Ok(Self { name: name.into(), fd: File::open(CURRENT).map_err(failed)?.into() })
    }

    /// Moves the calling thread into the namespace; threads it starts later follow, others do not.
    ///
    /// # Errors
    /// `PermissionDenied` without root.
    pub fn enter(&self) -> Result<(), NetnsError> {
        setns(&self.fd, CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError {
            action: "enter",
            name: self.name.clone(),
            source: e.into(),
        })
    }

    /// Runs `work` in the namespace, on a thread of its own, and returns its result.
    ///
    /// # Errors
    /// If the namespace cannot be entered.
    ///
    /// # Panics
    /// If `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        on_fresh_thread(|| Ok(self.enter().map(|()| work()))).map_err(|source| NetnsError {
            action: "start a thread in",
            name: self.name.clone(),
            source,
        })?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Takes the name away from a namespace, as `ip netns delete` does. It ends when nothing uses it any more.
///
/// # Errors
/// `NotFound` if there is none of this name.
pub fn delete(name: &str) -> Result<(), NetnsError> {
    let failed = |source| NetnsError { action: "delete", name: name.into(), source };
    let path = path_of(name).map_err(failed)?;
    match umount2(&path, MntFlags::MNT_DETACH) {
        // EINVAL: a file without a mount, left over from a creation that was cut short.
        Ok(()) | Err(nix::Error::EINVAL) => {}
        Err(errno) => return Err(failed(errno.into())),
    }
    std::fs::remove_file(&path).map_err(failed)
}

fn path_of(name: &str) -> io::Result<PathBuf> {
    let plain = !name.is_empty() && !name.contains(['/', '\0']) && name != "." && name != "..";
    let refused = || io::Error::new(io::ErrorKind::InvalidInput, "not a plain name");
    if plain { Ok(Path::new(DIRECTORY).join(name)) } else { Err(refused()) }
}

/// Makes `/run/netns` and a shared mount of it, so that names appear and vanish in other mount namespaces as well.
fn prepare_directory() -> io::Result<()> {
    std::fs::create_dir_all(DIRECTORY)?;
    let none = None::<&str>;
    let share = || mount(none, DIRECTORY, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    match share() {
        // Not a mount yet.
        Err(nix::Error::EINVAL) => {
            mount(Some(DIRECTORY), DIRECTORY, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
            Ok(share()?)
        }
        other => Ok(other?),
    }
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
