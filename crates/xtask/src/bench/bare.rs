//! Owns the baseline of the pause: a stock QEMU stopped and continued without Undying, with and without the saving
//! of its devices, by the same clock (QEMU's own STOP and RESUME events).

use anyhow::{Context, Result, bail};
use os::Memory;
use qemu::qmp::Command;
use qemu::{Channels, Installation, Qemu, Role, VmSpec};
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use serde_json::json;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// How long a guest may take to say what it says when it has booted.
const BOOT: Duration = Duration::from_secs(120);

/// A QEMU with a running guest that nobody protects. Dropping it ends it.
pub struct Bare {
    qemu: Qemu,
    state: OwnedFd,
    filename: String,
}

impl Bare {
    /// Boots the VM of this file's text, and waits until its console says `ready`.
    pub fn boot(toml: &str, ready: &'static str) -> Result<Self> {
        let installation = Installation::probe(Path::new(qemu::install::DEFAULT_BINARY))?;
        let resolved = installation.resolve(VmSpec::parse(toml, "the benchmark's VM")?)?;
        let memory = Arc::new(Memory::create("bench-bare", resolved.spec.memory.0)?);
        let (qemu, channels) = Qemu::launch(&installation, &resolved, Role::Primary, memory, Vec::new())?;
        let said = listen(channels, ready);
        qemu.cont()?;
        if said.ready.recv_timeout(BOOT).is_err() {
            bail!("the guest did not say {ready} within {} s: {}", BOOT.as_secs(), qemu.messages());
        }
        let (state, filename) = give_file(&qemu)?;
        Ok(Self { qemu, state, filename })
    }

    /// Stops and continues the guest `times`, `gap` apart; gives the pauses in microseconds.
    pub fn stop_and_continue(&self, times: usize, gap: Duration) -> Result<Vec<u64>> {
        self.pauses(times, gap, || {
            let tickets = self.qemu.qmp().send_all([Command::new("stop"), Command::new("cont")]);
            Ok(tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?)
        })
    }

    /// The same with the devices saved in between. All three commands go in one write.
    pub fn stop_save_continue(&self, times: usize, gap: Duration) -> Result<Vec<u64>> {
        let arguments = json!({ "filename": self.filename, "live": false });
        self.pauses(times, gap, || {
            rustix::fs::seek(&self.state, SeekFrom::Start(0))?;
            let save = Command::with("xen-save-devices-state", arguments.clone());
            let tickets = self.qemu.qmp().send_all([Command::new("stop"), save, Command::new("cont")]);
            Ok(tickets.into_iter().try_for_each(|ticket| ticket.wait().map(drop))?)
        })
    }

    /// Bytes of the device state saved last.
    pub fn state_bytes(&self) -> Result<u64> {
        Ok(rustix::fs::seek(&self.state, SeekFrom::Current(0))?)
    }

    fn pauses(&self, times: usize, gap: Duration, mut pause: impl FnMut() -> Result<()>) -> Result<Vec<u64>> {
        let mut found = Vec::with_capacity(times);
        for _ in 0..times {
            thread::sleep(gap);
            pause()?;
            let (stopped, resumed) = self.qemu.last_pause().context("QEMU sent no event")?;
            found.push(resumed.saturating_sub(stopped));
        }
        Ok(found)
    }
}

/// Gives QEMU a file in memory to save to: ours to rewind, so that each save writes where the last one did.
fn give_file(qemu: &Qemu) -> Result<(OwnedFd, String)> {
    let file = rustix::fs::memfd_create("bench-state", MemfdFlags::CLOEXEC)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // QEMU looks for a descriptor whose access mode is the one it wants to open with.
    let state = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let answer = qemu.qmp().execute_with_fd(Command::new("add-fd"), state.as_fd())?;
    let set = answer["fdset-id"].as_u64().context("QEMU did not number the file")?;
    Ok((state, format!("/dev/fdset/{set}")))
}

/// What a console says.
pub struct Console {
    /// Told once it says what was waited for.
    pub ready: Receiver<()>,
    text: Arc<Mutex<Vec<u8>>>,
}

impl Console {
    /// All of it until now.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

/// Reads all channels for as long as QEMU lives, since it waits for its readers; tells when the console says `ready`.
pub fn listen(channels: Channels, ready: &'static str) -> Console {
    let (tell, told) = channel();
    let Channels { console, nics } = channels;
    let text = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&text);
    thread::spawn(move || {
        let mut lines = BufReader::new(console);
        let mut line = Vec::new();
        while let Ok(1..) = lines.read_until(b'\n', &mut line) {
            if String::from_utf8_lossy(&line).contains(ready) {
                // Nobody waits a second time.
                let _ = tell.send(());
            }
            written.lock().unwrap_or_else(PoisonError::into_inner).append(&mut line);
        }
    });
    for nic in nics {
        thread::spawn(move || read_to_the_end(&nic));
    }
    Console { ready: told, text }
}

fn read_to_the_end(mut stream: &UnixStream) {
    let mut sink = [0; 4096];
    while let Ok(1..) = stream.read(&mut sink) {}
}
