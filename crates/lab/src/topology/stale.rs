//! Owns clearing away: processes left in a lab's namespaces, and namespaces of labs whose process died.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process};

use super::{LabError, Namespace};
use crate::command;

/// Every namespace of a lab is called `ud-lab-PID-NUMBER-TAG-MACHINE`.
pub const PREFIX: &str = "ud-lab-";

/// Removes what labs of dead processes left behind.
pub fn remove() -> Result<(), LabError> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Ok(()) };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(owner) = owner(&name)
            && !Path::new("/proc").join(owner.to_string()).exists()
        {
            end_processes_in_named(&name);
            // Another lab may be doing the same at this moment: that it is gone is all that counts.
            let _ = command::run(Command::new("ip").args(["netns", "delete", &name]));
        }
    }
    Ok(())
}

/// The process that made a namespace of this name.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Ends the processes in a lab's namespace, except this one, which may be there with some of its threads.
pub fn end_processes_in(namespace: &Namespace) {
    end_processes_in_named(namespace.name());
}

fn end_processes_in_named(name: &str) {
    let listed = command::run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in listed.lines().filter_map(|line| line.trim().parse().ok()) {
        if pid != std::process::id() as i32
            && let Some(pid) = Pid::from_raw(pid)
        {
            // It may have ended by itself meanwhile.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("ud-lab-4711-0-demo-alpha"), Some(4711));
        assert_eq!(owner("ud-lab-x-0-demo-alpha"), None);
        assert_eq!(owner("someone-elses"), None);
    }
}
