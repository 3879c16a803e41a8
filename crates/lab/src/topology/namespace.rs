//! Owns one network namespace: made and named, entered by threads and programs, removed with its owner.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::LabError;
use crate::command;

/// A network namespace; clones of the handle stay usable after its name is gone.
#[derive(Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
    /// Only the lab's own handle removes the name.
    owned: bool,
}

impl Namespace {
    /// Makes a namespace, with its loopback up and without IPv6 duplicate address detection.
    pub(super) fn create(name: String) -> Result<Namespace, LabError> {
        command::run(Command::new("ip").args(["netns", "add", &name]))?;
        let path = format!("/run/netns/{name}");
        let failed = |what| {
            let name = name.clone();
            move |source| LabError::Namespace { what, name, source }
        };
        let file = File::open(&path).map_err(failed("open"))?;
        let namespace = Namespace { name: name.as_str().into(), file: Arc::new(file), owned: true };
        namespace
            .run(|| {
                // Before any interface exists: each takes over these defaults.
                std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0")?;
                std::fs::write("/proc/sys/net/ipv6/conf/default/accept_ra", "0")
            })?
            .map_err(failed("configure"))?;
        Ok(namespace)
    }

    /// Another handle, which does not remove the namespace.
    pub(super) fn share(&self) -> Namespace {
        Namespace { name: Arc::clone(&self.name), file: Arc::clone(&self.file), owned: false }
    }

    /// Its name, as in `ip netns exec NAME`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Starts a thread in this namespace; every socket that it makes belongs there.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<io::Result<T>> {
        let file = Arc::clone(&self.file);
        thread::spawn(move || {
            enter(&file)?;
            Ok(work())
        })
    }

    /// Runs `work` on a fresh thread in this namespace and waits for it.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| enter(&self.file).map(|()| work()));
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(|source| LabError::Namespace {
            what: "enter",
            name: self.name().to_owned(),
            source,
        })
    }

    /// Starts a program in this namespace.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the program not be started.
    pub fn start(&self, command: &mut Command) -> Result<Child, LabError> {
        self.run(|| command.spawn())?.map_err(|source| LabError::Start {
            command: command::describe(command),
            host: self.name().to_owned(),
            source,
        })
    }

    /// Runs a program in this namespace to its end and returns its standard output.
    ///
    /// # Errors
    /// It cannot be started, or does not exit with success.
    pub fn output(&self, command: &mut Command) -> Result<String, LabError> {
        Ok(self.run(|| command::run(command))??)
    }
}

fn enter(file: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.owned {
            // Nothing can be done about a failure here; the next lab's clean-up tries again.
            let _ = command::run(Command::new("ip").args(["netns", "delete", self.name()]));
        }
    }
}
