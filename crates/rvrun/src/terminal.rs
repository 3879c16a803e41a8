//! Owns the terminal: raw mode, what is typed, and the keys that are meant for us (Ctrl-A x ends the machine).

use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use std::io::{self, Write};

/// Ctrl-A
const ESCAPE: u8 = 1;

/// The terminal of this process in raw mode, until dropped. Without a terminal, nothing.
#[derive(Debug)]
pub struct RawMode {
    before: Option<Termios>,
}

impl RawMode {
    /// Each key goes to the guest at once, Ctrl-C too.
    ///
    /// # Errors
    /// The terminal cannot be asked or set.
    pub fn enter() -> io::Result<RawMode> {
        let input = io::stdin();
        if !isatty(&input) {
            return Ok(RawMode { before: None });
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        Ok(RawMode { before: Some(before) })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // At the end of the program: nobody is left to be told.
            let _ = tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}

/// What typed bytes mean.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    /// For the guest.
    pub bytes: Vec<u8>,
    /// The machine shall end.
    pub quit: bool,
}

/// Whether the key before was Ctrl-A.
#[derive(Debug, Default)]
pub struct Keys {
    escaped: bool,
}

impl Keys {
    /// Takes what was typed apart. Ctrl-A twice is one for the guest.
    pub fn take(&mut self, typed: &[u8]) -> Typed {
        let mut bytes = Vec::new();
        for &byte in typed {
            match (std::mem::take(&mut self.escaped), byte) {
                (false, ESCAPE) => self.escaped = true,
                (true, b'x' | b'X') => return Typed { bytes, quit: true },
                (true, ESCAPE) | (false, _) => bytes.push(byte),
                (true, _) => bytes.extend([ESCAPE, byte]),
            }
        }
        Typed { bytes, quit: false }
    }
}

/// Where the guest's console is shown.
pub struct Screen(Box<dyn Write>);

impl Screen {
    /// Shown there.
    pub fn new(writer: impl Write + 'static) -> Screen {
        Screen(Box::new(writer))
    }

    /// Shows bytes.
    pub(crate) fn show(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)?;
        self.0.flush()
    }
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Screen")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_a_x_ends_and_the_rest_is_typed() {
        let mut keys = Keys::default();
        assert_eq!(keys.take(b"ls\r\x01"), Typed { bytes: b"ls\r".to_vec(), quit: false });
        assert_eq!(keys.take(b"\x01\x01b\x03"), Typed { bytes: b"\x01\x01b\x03".to_vec(), quit: false });
        assert_eq!(keys.take(b"a\x01xb"), Typed { bytes: b"a".to_vec(), quit: true });
    }
}
