//! Owns running other programs: their output goes where ours goes, and none may run for ever.

use crate::workspace;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

/// Cargo, as it runs us, in the workspace's folder.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace::root());
    // Set for us by the cargo that runs us; they would rebuild what they touch in the one that we run.
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR") {
            command.env_remove(name);
        }
    }
    command
}

/// The command as one would type it.
pub fn line(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Runs a command to its end and wants success.
pub fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("cannot run `{line}`"))?;
    judge(&line, status)
}

/// Runs a command to its end, but not longer than `limit`: then it and its children are killed.
pub fn run_within(limit: Duration, command: &mut Command) -> Result<()> {
    let line = line(command);
    // A process group of its own, so that what it started goes with it.
    let mut child = command.process_group(0).spawn().with_context(|| format!("cannot run `{line}`"))?;
    let group = Pid::from_child(&child);
    let (ended, end) = channel();
    thread::scope(|scope| {
        scope.spawn(|| wait(&mut child, &ended));
        let status = match end.recv_timeout(limit) {
            Err(RecvTimeoutError::Timeout) => {
                kill_process_group(group, Signal::KILL).with_context(|| format!("cannot kill `{line}`"))?;
                bail!("`{line}` did not end within {} minutes and was killed", limit.as_secs() / 60);
            }
            status => status.context("the waiting thread died")?,
        };
        judge(&line, status.with_context(|| format!("cannot wait for `{line}`"))?)
    })
}

fn wait(child: &mut Child, ended: &std::sync::mpsc::Sender<std::io::Result<ExitStatus>>) {
    // Nobody listens any more if the time was up.
    let _ = ended.send(child.wait());
}

/// Runs a command to its end, wants success and gives its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot run `{line}`"))?;
    judge(&line, output.status)?;
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` says what is no text"))
}

fn judge(line: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_is_named_with_its_status() {
        let error = run(Command::new("sh").args(["-c", "exit 7"])).unwrap_err().to_string();
        assert!(error.contains("sh -c exit 7") && error.contains('7'), "{error}");
        assert!(run(&mut Command::new("/nonexistent/program")).is_err());
        run_within(Duration::from_secs(60), &mut Command::new("true")).unwrap();
    }

    #[test]
    fn a_command_that_hangs_is_killed_with_its_children() {
        let mut command = Command::new("sh");
        // The pipe ends only when the grandchild is gone too.
        command.args(["-c", "sleep 1000 & wait"]);
        let (reader, writer) = std::io::pipe().unwrap();
        command.stdout(writer);
        let error = run_within(Duration::from_millis(50), &mut command).unwrap_err().to_string();
        assert!(error.contains("was killed"), "{error}");
        drop(command);
        assert_eq!(std::io::read_to_string(reader).unwrap(), "");
    }
}
