//! Owns the programs that run on a lab's hosts: starting, killing, freezing and ending them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::{AGENT, Lab, LabError, Link};

/// A process of the operating system.
pub type ProcessId = u32;

#[derive(Debug)]
struct Running {
    host: String,
    name: String,
    child: Child,
}

#[derive(Debug, Default)]
pub struct Processes(Mutex<Vec<Running>>);

impl Processes {
    fn all(&self) -> MutexGuard<'_, Vec<Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills everything, with what it started, and waits for it.
    pub fn end_all(&self) {
        end(self.all().drain(..).collect());
    }
}

/// Kills the processes and their descendants, then waits for them.
fn end(mut running: Vec<Running>) {
    let mut doomed: Vec<ProcessId> = running.iter().flat_map(|process| family(process.child.id())).collect();
    doomed.dedup();
    for pid in doomed {
        signal(pid, Signal::KILL);
    }
    for process in &mut running {
        // It was killed, so it ends; an error means that it was waited for before.
        let _ = process.child.wait();
    }
}

/// A process and all that descend from it, itself first: an agent must not live to see its QEMU die.
fn family(pid: ProcessId) -> Vec<ProcessId> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(&parent) = found.get(next) {
        next += 1;
        let Ok(tasks) = fs::read_dir(format!("/proc/{parent}/task")) else { continue };
        for task in tasks.flatten() {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<ProcessId>().ok()));
        }
    }
    found
}

fn signal(pid: ProcessId, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // A process that has just ended is no error: the aim is reached.
        let _ = kill_process(pid, signal);
    }
}

impl Lab {
    /// Starts a program on a host; its output goes to [`Lab::log`]. A program of this name must not be running there.
    ///
    /// # Errors
    /// There is no such host, or the program cannot be started.
    pub fn start(&self, host: &str, name: &str, command: &mut Command) -> Result<ProcessId, LabError> {
        let path = self.log(host, name);
        let failed = |source| LabError::File { what: "write", path: path.clone(), source };
        let log = File::options().create(true).append(true).open(&path).map_err(failed)?;
        let errors = log.try_clone().map_err(failed)?;
        command.stdin(Stdio::null()).stdout(log).stderr(errors);
        let child = self.host(host)?.start(command)?;
        let pid = child.id();
        self.processes.all().push(Running { host: host.to_owned(), name: name.to_owned(), child });
        Ok(pid)
    }

    /// Starts `undying host --config FILE` on a host, as the program [`AGENT`].
    ///
    /// # Errors
    /// There is no such host, or the program cannot be started.
    pub fn start_agent(&self, host: &str, binary: &Path, config: &Path) -> Result<ProcessId, LabError> {
        self.start(host, AGENT, Command::new(binary).arg("host").arg("--config").arg(config))
    }

    /// The file with the output of a program on a host; it is kept over restarts.
    pub fn log(&self, host: &str, name: &str) -> PathBuf {
        self.directory().join(format!("{host}-{name}.log"))
    }

    /// The process of a program on a host.
    ///
    /// # Errors
    /// It is not running.
    pub fn process(&self, host: &str, name: &str) -> Result<ProcessId, LabError> {
        let mut all = self.processes.all();
        let found = all.iter_mut().find(|running| running.host == host && running.name == name);
        // Asking for the exit status collects a process that has ended.
        match found.map(|running| (running.child.try_wait(), running.child.id())) {
            Some((Ok(None), pid)) => Ok(pid),
            _ => Err(not_running(host, name)),
        }
    }

    /// Kills a program on a host and everything it started, by SIGKILL, and waits for its end.
    ///
    /// # Errors
    /// It was never started.
    pub fn kill(&self, host: &str, name: &str) -> Result<(), LabError> {
        let doomed = self.take(|running| running.host == host && running.name == name);
        if doomed.is_empty() {
            return Err(not_running(host, name));
        }
        end(doomed);
        Ok(())
    }

    /// Waits for a program on a host to end by itself.
    ///
    /// # Errors
    /// It was never started, or cannot be waited for.
    pub fn wait(&self, host: &str, name: &str) -> Result<ExitStatus, LabError> {
        let mut taken = self.take(|running| running.host == host && running.name == name);
        let running = taken.first_mut().ok_or_else(|| not_running(host, name))?;
        running.child.wait().map_err(|source: io::Error| LabError::Start {
            command: name.to_owned(),
            host: host.to_owned(),
            source,
        })
    }

    /// A host dies: its programs stand still, its cables are pulled, then they are killed by SIGKILL. Returns when the kill
    /// began, on `os::clock`.
    ///
    /// The cables go before, because no host that dies says goodbye: the kernel would close its connections.
    ///
    /// # Errors
    /// There is no such host, or its links cannot be cut.
    pub fn kill_host(&self, host: &str) -> Result<u64, LabError> {
        self.kill_hosts(&[host])
    }

    /// Several hosts die as [`Lab::kill_host`] says, at the same instant.
    ///
    /// # Errors
    /// One of them is not there, or the links cannot be cut.
    pub fn kill_hosts(&self, hosts: &[&str]) -> Result<u64, LabError> {
        let began = os::clock::now_us();
        // Pulling the cables of several takes a busy machine the better part of a second: time enough for an owner to miss its
        // backup and to claim the next term, which no dead host does.
        for running in self.processes.all().iter().filter(|running| hosts.contains(&running.host.as_str())) {
            signal(running.child.id(), Signal::STOP);
        }
        self.cut_links(&hosts.iter().map(|host| Link::All(host)).collect::<Vec<_>>())?;
        end(self.take(|running| hosts.contains(&running.host.as_str())));
        Ok(began)
    }

    /// A dead host is switched on again: its cables are put back; programs are the caller's to start.
    ///
    /// # Errors
    /// There is no such host, or its links cannot be healed.
    pub fn revive_host(&self, host: &str) -> Result<(), LabError> {
        self.heal_link(Link::All(host))
    }

    /// Stops the host's agent in its tracks (SIGSTOP); its QEMU goes on. Returns once the agent stands still.
    ///
    /// # Errors
    /// No agent is running there, or it ends instead of stopping.
    pub fn freeze(&self, host: &str) -> Result<(), LabError> {
        let pid = self.process(host, AGENT)?;
        signal(pid, Signal::STOP);
        let child = Pid::from_raw(pid.cast_signed()).ok_or_else(|| not_running(host, AGENT))?;
        // NOWAIT leaves an end, if that is what comes, for whoever waits for it.
        let options = WaitIdOptions::STOPPED | WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        match waitid(WaitId::Pid(child), options) {
            Ok(Some(status)) if status.stopped() => Ok(()),
            _ => Err(not_running(host, AGENT)),
        }
    }

    /// Lets a frozen agent go on (SIGCONT).
    ///
    /// # Errors
    /// No agent is running there.
    pub fn thaw(&self, host: &str) -> Result<(), LabError> {
        signal(self.process(host, AGENT)?, Signal::CONT);
        Ok(())
    }

    fn take(&self, which: impl Fn(&Running) -> bool) -> Vec<Running> {
        let mut all = self.processes.all();
        let (taken, kept) = all.drain(..).partition(|running| which(running));
        *all = kept;
        taken
    }
}

fn not_running(host: &str, process: &str) -> LabError {
    LabError::NotRunning { host: host.to_owned(), process: process.to_owned() }
}
