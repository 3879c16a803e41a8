//! Owns just enough of the Redis protocol (RESP 2): commands out, replies in, whatever the chunks they arrive in.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longest bulk string accepted from a server: 64 MiB.
const BULK_LIMIT: usize = 64 << 20;
/// Longest array accepted from a server.
const ARRAY_LIMIT: usize = 1 << 24;

/// A reply of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`
    Simple(String),
    /// `-ERR ...`
    Error(String),
    /// `:42`
    Integer(i64),
    /// `$5 hello`, or nothing
    Bulk(Option<Vec<u8>>),
    /// `*2 ...`
    Array(Vec<Reply>),
}

/// Appends a command to `out`.
pub fn encode(out: &mut Vec<u8>, words: &[&str]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
}

/// Takes one whole reply off the front of `bytes`: the reply and its length, or `None` if it is not all there.
///
/// # Errors
/// The bytes are not RESP.
pub fn decode(bytes: &[u8]) -> io::Result<Option<(Reply, usize)>> {
    let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
    let line = String::from_utf8_lossy(&bytes[..end]);
    let (kind, rest) = line.split_at_checked(1).ok_or_else(|| garbage(&line))?;
    let number = || rest.parse::<i64>().map_err(|_| garbage(&line));
    let used = end + 2;
    match kind {
        "+" => Ok(Some((Reply::Simple(rest.to_owned()), used))),
        "-" => Ok(Some((Reply::Error(rest.to_owned()), used))),
        ":" => Ok(Some((Reply::Integer(number()?), used))),
        "$" => match number()? {
            -1 => Ok(Some((Reply::Bulk(None), used))),
            length => {
                let length = bounded(length, BULK_LIMIT, &line)?;
                let Some(body) = bytes.get(used..used + length + 2) else { return Ok(None) };
                Ok(Some((Reply::Bulk(Some(body[..length].to_vec())), used + length + 2)))
            }
        },
        "*" => decode_array(bytes, used, bounded(number()?, ARRAY_LIMIT, &line)?),
        _ => Err(garbage(&line)),
    }
}

fn decode_array(bytes: &[u8], mut used: usize, length: usize) -> io::Result<Option<(Reply, usize)>> {
    let mut items = Vec::new();
    for _ in 0..length {
        let Some((item, more)) = decode(&bytes[used..])? else { return Ok(None) };
        items.push(item);
        used += more;
    }
    Ok(Some((Reply::Array(items), used)))
}

fn bounded(length: i64, limit: usize, line: &str) -> io::Result<usize> {
    usize::try_from(length).ok().filter(|&length| length <= limit).ok_or_else(|| garbage(line))
}

fn garbage(line: &str) -> io::Error {
    let shown: String = line.chars().take(60).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("not a Redis reply: `{shown}`"))
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects; no waiting on this connection lasts longer than `patience`.
    ///
    /// # Errors
    /// Nobody answers in time.
    pub fn open(target: SocketAddr, patience: Duration) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&target, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Connection { stream, unread: Vec::new() })
    }

    /// From now on a read waits this long at most.
    ///
    /// # Errors
    /// The duration is zero.
    pub fn set_read_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))
    }

    /// Sends encoded commands.
    ///
    /// # Errors
    /// The connection is broken.
    pub fn send(&mut self, commands: &[u8]) -> io::Result<()> {
        self.stream.write_all(commands)
    }

    /// Waits for the next bytes of the server.
    ///
    /// # Errors
    /// The connection is broken or closed; `WouldBlock` if the patience is over.
    pub fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        let read = loop {
            match self.stream.read(&mut chunk) {
                // A read with a time-out is not begun again by the kernel when the machine was suspended.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        match read {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            length => {
                self.unread.extend_from_slice(&chunk[..length]);
                Ok(())
            }
        }
    }

    /// Takes all whole replies that have arrived.
    ///
    /// # Errors
    /// What arrived is not RESP.
    pub fn arrived(&mut self) -> io::Result<Vec<Reply>> {
        let mut replies = Vec::new();
        let mut used = 0;
        while let Some((reply, length)) = decode(&self.unread[used..])? {
            replies.push(reply);
            used += length;
        }
        self.unread.drain(..used);
        Ok(replies)
    }

    /// Sends one command and waits for its reply; nothing else may be outstanding.
    ///
    /// # Errors
    /// The connection is broken, or the patience is over.
    pub fn ask(&mut self, words: &[&str]) -> io::Result<Reply> {
        let mut command = Vec::new();
        encode(&mut command, words);
        self.send(&command)?;
        loop {
            if let Some((reply, length)) = decode(&self.unread)? {
                self.unread.drain(..length);
                return Ok(reply);
            }
            self.fill()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &[u8] = b"+PONG\r\n:42\r\n$5\r\nhe\r\no\r\n$-1\r\n*2\r\n:1\r\n$1\r\na\r\n-ERR no\r\n*0\r\n";

    fn expected() -> Vec<Reply> {
        vec![
            Reply::Simple("PONG".into()),
            Reply::Integer(42),
            Reply::Bulk(Some(b"he\r\no".to_vec())),
            Reply::Bulk(None),
            Reply::Array(vec![Reply::Integer(1), Reply::Bulk(Some(b"a".to_vec()))]),
            Reply::Error("ERR no".into()),
            Reply::Array(vec![]),
        ]
    }

    #[test]
    fn replies_are_the_same_in_any_chunks() {
        for chunk in 1..=STREAM.len() {
            let mut unread = Vec::new();
            let mut replies = Vec::new();
            for part in STREAM.chunks(chunk) {
                unread.extend_from_slice(part);
                while let Some((reply, length)) = decode(&unread).expect("good bytes") {
                    replies.push(reply);
                    unread.drain(..length);
                }
            }
            assert_eq!(replies, expected(), "in chunks of {chunk}");
        }
    }

    #[test]
    fn garbage_and_absurd_lengths_are_refused() {
        for bytes in [&b"hello\r\n"[..], b"\r\n", b"$-2\r\n", b"$99999999999\r\n", b":x\r\n", b"*-1\r\n"] {
            decode(bytes).expect_err("it is not a reply");
        }
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        encode(&mut out, &["RPUSH", "log:1", "7"]);
        assert_eq!(out, b"*3\r\n$5\r\nRPUSH\r\n$5\r\nlog:1\r\n$1\r\n7\r\n");
    }
}
