//! Owns the spawning of children that cannot outlive us.
//!
//! The kernel kills such a child (`PR_SET_PDEATHSIG`) when the *thread* that forked it ends, not the process. A
//! child forked from a short-lived thread would therefore die early. So all forks are made by one thread of this
//! module, the spawner, which is started at the first use and never ends before the process does.

use super::{PidFd, ProcessError};
use rustix::process::{WaitId, WaitIdOptions};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

/// A child to be spawned. It is killed when this process dies in any way, or when its [`Child`] is dropped.
///
/// The child lives in the network namespace of the thread that calls [`Spawn::spawn`]. Its standard input is
/// `/dev/null`, its output and error go where ours go, unless set otherwise.
#[derive(Debug)]
pub struct Spawn {
    command: Command,
    program: OsString,
    inherited: Vec<OwnedFd>,
}

impl Spawn {
    /// A child that runs `program` (looked up in `PATH` if it has no slash).
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(&program);
        command.stdin(Stdio::null());
        Self { command, program: program.as_ref().to_owned(), inherited: Vec::new() }
    }

    /// Adds an argument.
    pub fn arg(&mut self, arg: impl AsRef<OsStr>) -> &mut Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    pub fn args(&mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> &mut Self {
        self.command.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(&mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> &mut Self {
        self.command.env(name, value);
        self
    }

    /// Sets the working directory.
    pub fn current_dir(&mut self, dir: impl AsRef<std::path::Path>) -> &mut Self {
        self.command.current_dir(dir);
        self
    }

    /// Sets the standard input; a pipe ends up in [`Child::stdin`].
    pub fn stdin(&mut self, stdin: impl Into<Stdio>) -> &mut Self {
        self.command.stdin(stdin);
        self
    }

    /// Sets the standard output; a pipe ends up in [`Child::stdout`].
    pub fn stdout(&mut self, stdout: impl Into<Stdio>) -> &mut Self {
        self.command.stdout(stdout);
        self
    }

    /// Sets the standard error; a pipe ends up in [`Child::stderr`].
    pub fn stderr(&mut self, stderr: impl Into<Stdio>) -> &mut Self {
        self.command.stderr(stderr);
        self
    }

    /// Lets the child inherit `fd` and returns the number under which it has it, for its arguments. (It is the
    /// number here: to give it another could overwrite a descriptor that the spawning itself needs.) Our own copy
    /// is closed once the child runs.
    pub fn inherit(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherited.push(fd);
        number
    }

    /// Starts the child.
    ///
    /// # Errors
    /// If the program cannot be started; the source is of kind `NotFound` if there is no such program.
    pub fn spawn(mut self) -> Result<Child, ProcessError> {
        let program = self.program.to_string_lossy().into_owned();
        let failed = |source| ProcessError::Start { program: program.clone(), source };
        let network = caller_network().map_err(failed)?;
        self.prepare_child(network);
        let child = on_spawner_thread(self.command).map_err(failed)?;
        Child::new(child)
    }

    fn prepare_child(&mut self, network: Option<OwnedFd>) {
        let parent = rustix::process::getpid().as_raw_pid();
        let inherited = std::mem::take(&mut self.inherited);
        // SAFETY: the closure runs between fork and exec in a copy of a process with threads, so it may only do
        // what is async-signal-safe: it makes system calls and allocates nothing.
        unsafe { self.command.pre_exec(move || in_child(parent, network.as_ref(), &inherited)) };
    }
}

fn in_child(parent: i32, network: Option<&OwnedFd>, inherited: &[OwnedFd]) -> io::Result<()> {
    // SAFETY: prctl with PR_SET_PDEATHSIG takes a number and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // If the parent died before the line above, nobody would ever kill us.
    // SAFETY: getppid has no preconditions.
    if unsafe { libc::getppid() } != parent {
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    if let Some(network) = network {
        nix::sched::setns(network, nix::sched::CloneFlags::CLONE_NEWNET)?;
    }
    for fd in inherited {
        // SAFETY: fcntl(F_SETFD) takes numbers and touches no memory.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

type Request = (Command, mpsc::SyncSender<io::Result<std::process::Child>>);

struct Spawner {
    requests: mpsc::Sender<Request>,
    /// Identity of the network namespace in which the spawner thread lives.
    network: (u64, u64),
}

fn spawner() -> io::Result<&'static Spawner> {
    static SPAWNER: OnceLock<io::Result<Spawner>> = OnceLock::new();
    let started = SPAWNER.get_or_init(|| {
        let network = network_identity(&File::open("/proc/thread-self/ns/net")?)?;
        let (requests, inbox) = mpsc::channel::<Request>();
        std::thread::Builder::new().name("spawner".into()).spawn(move || {
            for (mut command, answer) in inbox {
                let child = command.spawn();
                // Before the answer, so that the caller finds our copies of inherited descriptors closed.
                drop(command);
                answer.send(child).expect("the caller waits for its answer");
            }
        })?;
        Ok(Spawner { requests, network })
    });
    started.as_ref().map_err(|e| io::Error::new(e.kind(), e.to_string()))
}

fn on_spawner_thread(command: Command) -> io::Result<std::process::Child> {
    let (answer, result) = mpsc::sync_channel(1);
    spawner()?.requests.send((command, answer)).expect("the spawner thread never ends");
    result.recv().expect("the spawner thread answers every request")
}

/// The calling thread's network namespace, if it differs from the spawner's.
fn caller_network() -> io::Result<Option<OwnedFd>> {
    let spawner = spawner()?;
    let own = File::open("/proc/thread-self/ns/net")?;
    Ok((network_identity(&own)? != spawner.network).then(|| own.into()))
}

fn network_identity(file: &File) -> io::Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.dev(), metadata.ino()))
}

/// A running child. Dropping it kills it and waits for its end.
///
/// While another thread traces the child (see [`crate::inject`]), a plain `waitpid` for it would catch the tracer's
/// stops. The methods here do not: they first wait for the child's death on its pidfd, then reap.
#[derive(Debug)]
pub struct Child {
    pidfd: PidFd,
    exit: Option<Exit>,
    /// Our end of the child's standard input, if a pipe was asked for.
    pub stdin: Option<ChildStdin>,
    /// Our end of the child's standard output, if a pipe was asked for.
    pub stdout: Option<ChildStdout>,
    /// Our end of the child's standard error, if a pipe was asked for.
    pub stderr: Option<ChildStderr>,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this status.
    Status(i32),
    /// This signal killed it.
    Signal(i32),
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exited with status {status}"),
            Self::Signal(signal) => write!(f, "was killed by signal {signal}"),
        }
    }
}

impl Child {
    fn new(child: std::process::Child) -> Result<Self, ProcessError> {
        // The child is not reaped yet, so its number cannot mean another process.
        let pidfd = PidFd::open(child.id())?;
        Ok(Self { pidfd, exit: None, stdin: child.stdin, stdout: child.stdout, stderr: child.stderr })
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pidfd.pid()
    }

    /// Its pidfd: to poll for its end together with other descriptors, or to signal it.
    #[must_use]
    pub fn pidfd(&self) -> &PidFd {
        &self.pidfd
    }

    /// Kills it at once. To kill a dead child is no error.
    ///
    /// # Errors
    /// If it changed its identity and may not be killed.
    pub fn kill(&self) -> Result<(), ProcessError> {
        if self.exit.is_some() { Ok(()) } else { self.pidfd.kill() }
    }

    /// Waits for its end, at most `timeout` (without one: for ever). `None` if it still runs.
    ///
    /// # Errors
    /// If someone else reaped it.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<Option<Exit>, ProcessError> {
        if self.exit.is_none() && self.pidfd.wait_dead(timeout) {
            let pidfd = self.pidfd.as_fd();
            let status = rustix::io::retry_on_intr(|| {
                rustix::process::waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)
            })
            .map_err(|e| ProcessError::of("reap", self.pid(), e))?;
            let status = status.expect("waitid without NOHANG answers");
            self.exit = Some(match status.exit_status() {
                Some(code) => Exit::Status(code),
                None => Exit::Signal(status.terminating_signal().unwrap_or(0)),
            });
        }
        Ok(self.exit)
    }

    /// How it ended, or `None` if it still runs.
    ///
    /// # Errors
    /// If someone else reaped it.
    pub fn try_wait(&mut self) -> Result<Option<Exit>, ProcessError> {
        self.wait(Some(Duration::ZERO))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.exit.is_none() && self.pidfd.kill().is_ok() {
            let _ = self.wait(None);
        }
    }
}
