//! Owns the unix socket that an agent listens on: one agent per path, root only, and no stale socket in the way.

use super::server::ServeError;
use rustix::fs::{FlockOperation, flock};
use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A socket that listens at a path and is removed when dropped.
#[derive(Debug)]
pub(super) struct Socket {
    path: PathBuf,
    /// Held for as long as we listen. Two agents that start together would each find the other's socket stale.
    _lock: File,
}

impl Socket {
    /// Listens at `path`, making its directory if it is missing and replacing a socket that nobody answers on.
    pub(super) fn listen(path: &Path) -> Result<(Self, UnixListener), ServeError> {
        let failed = |action| move |source| ServeError::Socket { path: path.to_path_buf(), action, source };
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(failed("make the directory of"))?;
            let mode = fs::metadata(parent).map_err(failed("look at the directory of"))?.permissions().mode()
                & 0o7777;
            if mode & 0o022 != 0 {
                let (path, directory) = (path.to_path_buf(), parent.to_path_buf());
                return Err(ServeError::OpenDirectory { path, directory, mode });
            }
        }
        let lock = lock(path)?;
        remove_stale(path)?;
        let listener = UnixListener::bind(path).map_err(failed("listen on"))?;
        let socket = Self { path: path.to_path_buf(), _lock: lock };
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed("set the mode of"))?;
        listener.set_nonblocking(true).map_err(failed("listen on"))?;
        Ok((socket, listener))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // The lock's file stays: removing it would let two agents lock two files of one name.
        let _ = fs::remove_file(&self.path);
    }
}

fn lock(path: &Path) -> Result<File, ServeError> {
    let mut name = OsString::from(path);
    name.push(".lock");
    let failed = |source| ServeError::Socket { path: path.to_path_buf(), action: "lock", source };
    let file = File::options().create(true).truncate(false).write(true).open(name).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ServeError::AgentRuns { path: path.to_path_buf() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

/// Removes what an agent that died left behind. Anything else at the path is not ours to remove.
fn remove_stale(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Socket { path: path.to_path_buf(), action: "look at", source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(failed(io::Error::new(ErrorKind::AlreadyExists, "it is there and is no socket")));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ServeError::AgentRuns { path: path.to_path_buf() }),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_roots_alone_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/er/agent.sock");
        let (socket, _listener) = Socket::listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(socket.path(), path);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_others_may_change_is_no_place_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        for mode in [0o777, 0o1777, 0o770, 0o757] {
            fs::set_permissions(directory.path(), Permissions::from_mode(mode)).unwrap();
            let error = Socket::listen(&path).unwrap_err();
            assert!(matches!(error, ServeError::OpenDirectory { .. }), "{mode:o}: {error}");
            assert!(!path.exists());
        }
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        Socket::listen(&path).unwrap();
    }

    #[test]
    fn a_socket_that_nobody_answers_on_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the dead agent's socket is there");
        let (_socket, _listener) = Socket::listen(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_socket_that_somebody_answers_on_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let _foreign = UnixListener::bind(&path).unwrap();
        let error = Socket::listen(&path).unwrap_err();
        assert!(matches!(error, ServeError::AgentRuns { .. }), "{error}");
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_second_agent_is_refused_even_before_the_first_one_listens() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let _starting = lock(&path).unwrap();
        let error = Socket::listen(&path).unwrap_err();
        assert!(matches!(error, ServeError::AgentRuns { .. }), "{error}");
    }

    #[test]
    fn a_file_that_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        fs::write(&path, "precious").unwrap();
        let error = Socket::listen(&path).unwrap_err().to_string();
        assert!(error.contains("agent.sock") && error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
