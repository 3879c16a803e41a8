//! Owns running other programs: their output is captured, and a failure says what was run and what it said.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The program could not be started at all.
    #[error("cannot start `{command}`: {source}; is the package that holds it installed?")]
    Start {
        /// The program and its arguments.
        command: String,
        /// What the system said.
        source: io::Error,
    },
    /// The program ran and failed.
    #[error("`{command}` failed ({status}): {said}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// Its exit status.
        status: String,
        /// The end of what it wrote to its standard error or output.
        said: String,
    },
}

/// Runs a program to its end and returns its standard output.
///
/// # Errors
/// The program cannot be started, or does not exit with success.
pub fn run(command: &mut Command) -> Result<String, CommandError> {
    run_with_input(command, "")
}

/// As [`run`], with `input` on the program's standard input.
///
/// # Errors
/// The program cannot be started, or does not exit with success.
pub fn run_with_input(command: &mut Command, input: &str) -> Result<String, CommandError> {
    let output = capture(command, input)
        .map_err(|source| CommandError::Start { command: describe(command), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = if output.stderr.is_empty() { &output.stdout } else { &output.stderr };
    Err(CommandError::Failed {
        command: describe(command),
        status: output.status.to_string(),
        said: tail(&String::from_utf8_lossy(said), 12),
    })
}

fn capture(command: &mut Command, input: &str) -> io::Result<Output> {
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // A program that ends before it has read everything says why on its standard error.
        match pipe.write_all(input.as_bytes()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

/// The program and its arguments as a person would type them.
pub fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_what_was_run_and_what_it_said() {
        let error =
            run(Command::new("sh").args(["-c", "echo why >&2; exit 3"])).expect_err("it exits with 3");
        let text = error.to_string();
        assert!(text.contains("sh -c") && text.contains("why") && text.contains('3'), "{text}");
    }

    #[test]
    fn input_reaches_the_program() {
        assert_eq!(run_with_input(&mut Command::new("cat"), "hello").expect("cat"), "hello");
    }
}
