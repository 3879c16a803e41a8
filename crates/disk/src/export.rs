//! Owns an image that is served: the listening thread, a thread and its workers for each client, and their end.

use crate::direct::{Direct, Open};
use crate::image::{Access, Image};
use crate::nbd::{Ending, ExportInfo, run};
use crate::served::Served;
use crate::socket::Socket;
use crate::stats::Stats;
use crate::tap::Observer;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

/// Clients at a time: QEMU has one connection, a copier some. Each may cost a buffer of 32 MiB for each worker.
const MAX_CONNECTIONS: usize = 8;
/// The longest name of an export.
const MAX_NAME: usize = 256;
/// What either end may send before the other reads: a whole request of a guest, with the kernel's own bytes about it.
const SOCKET_BUFFER: usize = 2 << 20;
/// How long the listener leaves clients waiting when the system has no descriptor or thread for them.
const EXHAUSTED_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// What went wrong with an export.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// A name that is too long.
    #[error("an export's name has {len} bytes: at most {MAX_NAME} are allowed")]
    Name {
        /// Its length.
        len: usize,
    },
    /// The socket cannot be made.
    #[error(
        "cannot listen for the disk's QEMU at {}: {source}; choose another path, or end what uses it",
        .path.display()
    )]
    Listen {
        /// Where.
        path: PathBuf,
        /// The reason.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread or descriptor.
    #[error("cannot {action} to serve disk image {}: {source}", .path.display())]
    System {
        /// What was tried.
        action: &'static str,
        /// The image.
        path: PathBuf,
        /// The kernel's reason.
        #[source]
        source: io::Error,
    },
}

/// An image that is served to clients: those that it is asked for ([`Export::connect`], [`Export::direct`]), and those that
/// come to its socket if it has one. It ends when dropped, and with it its clients' connections.
pub struct Export {
    shared: Arc<Shared>,
    listener: Option<JoinHandle<()>>,
    /// For clients in this process.
    open: Arc<Open>,
}

struct Shared {
    served: Arc<Served>,
    info: ExportInfo,
    stop: AtomicBool,
    wake: OwnedFd,
    connections: Mutex<Vec<Connection>>,
}

struct Connection {
    stream: Arc<UnixStream>,
    thread: JoinHandle<()>,
}

impl Export {
    /// Serves `image` as the export `name` (also as the default export) to the clients that it is asked for. `observer`
    /// hears of all changes.
    ///
    /// # Errors
    /// If the name is too long.
    pub fn new(
        image: impl Into<Arc<Image>>,
        name: &str,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ExportError> {
        if name.len() > MAX_NAME {
            return Err(ExportError::Name { len: name.len() });
        }
        let image = image.into();
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let wake = wake.map_err(|errno| system("make an eventfd", &image)(errno.into()))?;
        let info = ExportInfo {
            name: name.into(),
            size: image.size(),
            read_only: image.access() == Access::ReadOnly,
        };
        let served = Arc::new(Served::new(image, observer));
        let open = Arc::new(RwLock::new(Some(Arc::clone(&served))));
        let shared =
            Shared { served, info, stop: AtomicBool::new(false), wake, connections: Mutex::default() };
        Ok(Self { shared: Arc::new(shared), listener: None, open })
    }

    /// The same, for everyone who comes to a socket at `path`, which only our user may open.
    ///
    /// # Errors
    /// If the name is too long, something else is at `path`, or the system gives no thread.
    pub fn serve(
        image: impl Into<Arc<Image>>,
        name: &str,
        path: &Path,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, ExportError> {
        let mut this = Self::new(image, name, observer)?;
        let socket =
            Socket::listen(path).map_err(|source| ExportError::Listen { path: path.into(), source })?;
        let shared = Arc::clone(&this.shared);
        let thread = std::thread::Builder::new().name(format!("nbd-{name}"));
        let listener = thread.spawn(move || shared.listen(&socket));
        this.listener = Some(listener.map_err(system("start a thread", this.shared.served.image()))?);
        Ok(this)
    }

    /// A client's end of a conversation, which is served from now on.
    ///
    /// # Errors
    /// If there are too many clients, or the system gives no sockets or thread.
    pub fn connect(&self) -> Result<UnixStream, ExportError> {
        let image = self.shared.served.image();
        let (ours, theirs) = UnixStream::pair().map_err(system("make sockets", image))?;
        for end in [&ours, &theirs] {
            if let Err(error) = sockopt::set_socket_send_buffer_size_force(end, SOCKET_BUFFER) {
                // Long requests wait more often for the other end then.
                tracing::debug!(%error, "a disk's socket keeps its ordinary buffer");
            }
        }
        self.shared.welcome(ours).map_err(system("start a thread", image))?;
        Ok(theirs)
    }

    /// A client in this process.
    #[must_use]
    pub fn direct(&self) -> Direct {
        Direct::new(&self.open, &self.shared.served)
    }

    /// What was asked of it so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.served.counters().snapshot()
    }

    /// Ends it: no client is accepted or heard any more, requests that were read are finished, all threads are
    /// gone when this returns, and the image is unlocked. Nothing is flushed: that is what clients ask for. An
    /// observer that waits is waited for: let it go on first.
    pub fn shutdown(self) {
        drop(self);
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Fails only if the counter is full: then the thread is awake.
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
        if let Some(listener) = self.listener.take() {
            // It does not panic; if it did, its clients still have to be ended.
            let _ = listener.join();
        }
        let connections = std::mem::take(&mut *self.shared.connections());
        for connection in &connections {
            // Fails if the client is gone already.
            let _ = connection.stream.shutdown(Shutdown::Both);
        }
        for connection in connections {
            connection.join();
        }
        // Waits for what clients in this process asked.
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// For `map_err`: what was tried for which image.
fn system(action: &'static str, image: &Image) -> impl FnOnce(io::Error) -> ExportError + use<> {
    let path = image.path().to_owned();
    move |source| ExportError::System { action, path, source }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn listen(self: Arc<Self>, socket: &Socket) {
        while self.wait(Some(socket), None) {
            let outcome = socket.accept().and_then(|stream| match stream {
                Some(stream) => self.welcome(stream),
                None => Ok(()),
            });
            if let Err(error) = outcome {
                tracing::warn!(%error, socket = %socket.path().display(), "a disk's client has to wait");
                self.wait(None, Some(&EXHAUSTED_PAUSE));
            }
        }
    }

    /// Waits for a client, or for the end, or for the time; whether to go on.
    fn wait(&self, socket: Option<&Socket>, time: Option<&Timespec>) -> bool {
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        fds.extend(socket.map(|socket| PollFd::new(socket, PollFlags::IN)));
        loop {
            match rustix::event::poll(&mut fds, time) {
                Err(Errno::INTR) => {}
                Ok(_) => return !self.stop.load(Ordering::SeqCst),
                Err(errno) => {
                    tracing::error!(%errno, "cannot wait for a disk's clients: no new ones are served");
                    return false;
                }
            }
        }
    }

    /// Starts a client's thread, if there is a place for it.
    fn welcome(self: &Arc<Self>, stream: UnixStream) -> io::Result<()> {
        let mut connections = self.connections();
        let (gone, there): (Vec<_>, Vec<_>) =
            connections.drain(..).partition(|connection| connection.thread.is_finished());
        *connections = there;
        gone.into_iter().for_each(Connection::join);
        if connections.len() >= MAX_CONNECTIONS {
            tracing::warn!(export = self.info.name, "too many clients of a disk: one is sent away");
            return Ok(());
        }
        let stream = Arc::new(stream);
        let (shared, for_thread) = (Arc::clone(self), Arc::clone(&stream));
        let thread = std::thread::Builder::new().name("nbd-client".into());
        let thread = thread.spawn(move || shared.converse(&for_thread))?;
        connections.push(Connection { stream, thread });
        Ok(())
    }

    fn converse(&self, stream: &UnixStream) {
        let counters = self.served.counters();
        let _connected = counters.connections.during();
        let ending = run(&self.served, &self.info, stream);
        if let Ending::Broken(why) = ending
            && !self.stop.load(Ordering::SeqCst)
        {
            counters.broken_connections.one();
            tracing::warn!(export = self.info.name, why, "a disk's client broke off");
        }
        // The list of connections holds the socket open until the next client comes: this one must see the end now.
        let _ = stream.shutdown(Shutdown::Both);
    }

    fn connections(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("the thread of a disk's client died");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::Unobserved;
    use std::io::Read;

    fn serve(folder: &Path) -> (Export, PathBuf) {
        let image = Image::create(&folder.join("disk"), 1 << 20).unwrap();
        let path = folder.join("socket");
        (Export::serve(image, "vda", &path, Arc::new(Unobserved)).unwrap(), path)
    }

    /// Connects and waits until the export talks.
    fn client(path: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(path).unwrap();
        stream.read_exact(&mut [0; 18]).unwrap();
        stream
    }

    #[test]
    fn its_end_ends_clients_and_unlocks_the_image() {
        let folder = tempfile::tempdir().unwrap();
        let (export, path) = serve(folder.path());
        let mut stream = client(&path);
        assert_eq!(export.stats().connections, 1);
        export.shutdown();
        let mut rest = Vec::new();
        // Depending on what the socket still held, the end is an end or a reset.
        let _ = stream.read_to_end(&mut rest);
        assert!(!path.exists());
        Image::open(&folder.path().join("disk"), Access::ReadWrite).unwrap();
    }

    #[test]
    fn more_clients_than_places_are_sent_away_and_places_become_free() {
        let folder = tempfile::tempdir().unwrap();
        let (export, path) = serve(folder.path());
        let mut clients: Vec<UnixStream> = (0..MAX_CONNECTIONS).map(|_| client(&path)).collect();
        let mut one_more = UnixStream::connect(&path).unwrap();
        assert_eq!(one_more.read(&mut [0; 18]).unwrap(), 0, "it was served");
        let mut leaves = clients.pop().unwrap();
        leaves.shutdown(Shutdown::Write).unwrap();
        leaves.read_to_end(&mut Vec::new()).unwrap();
        // Its thread has said good-bye, but may need a moment to be gone: until then the place is taken.
        while UnixStream::connect(&path).unwrap().read(&mut [0; 18]).unwrap() == 0 {}
        drop((clients, export));
    }

    #[test]
    fn what_cannot_be_served_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (_export, path) = serve(folder.path());
        let image = Image::create(&folder.path().join("second"), 4096).unwrap();
        let error = Export::serve(image, "vdb", &path, Arc::new(Unobserved)).map(drop).unwrap_err();
        assert!(error.to_string().contains("another program listens there"), "{error}");
        let image = Image::create(&folder.path().join("third"), 4096).unwrap();
        let name = "x".repeat(MAX_NAME + 1);
        let outcome = Export::serve(image, &name, &folder.path().join("s"), Arc::new(Unobserved));
        assert!(matches!(outcome, Err(ExportError::Name { len: 257 })));
    }
}
