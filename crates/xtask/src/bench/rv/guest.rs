//! Owns one run of the guest on a machine: ours or QEMU's, recorded or not, with or without a network.

use super::super::cpu;
use anyhow::{Context, Result, bail};
use lab::guest::riscv::RiscvGuest;
use lab::topology::{GuestAddress, Lab};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

pub const HOST: &str = "alpha";
const TAP: &str = "tap0";
/// Nothing takes so long, but a guest that hangs.
const PATIENCE: Duration = Duration::from_secs(300);
const GLANCE: Duration = Duration::from_millis(20);

/// What runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The deterministic machine.
    Ours,
    /// The same, recorded.
    OursRecorded,
    /// QEMU as it comes.
    Qemu,
    /// QEMU that counts instructions.
    Icount,
    /// The same, recorded.
    IcountRecorded,
}

impl How {
    pub const ALL: [How; 5] = [How::Ours, How::OursRecorded, How::Qemu, How::Icount, How::IcountRecorded];

    pub fn name(self) -> &'static str {
        match self {
            How::Ours => "here",
            How::OursRecorded => "here, recorded",
            How::Qemu => "QEMU",
            How::Icount => "QEMU `-icount shift=auto`",
            How::IcountRecorded => "QEMU `-icount shift=auto,rr=record`",
        }
    }
}

/// Where runs take place, and what is run.
pub struct Place<'a> {
    pub lab: &'a Lab,
    pub binary: &'a Path,
    pub guest: &'a RiscvGuest,
}

/// A guest that runs.
pub struct Running {
    child: Child,
    console: PathBuf,
    pub log: PathBuf,
    /// What others that were waited for had used before.
    before: f64,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has ended already, unless something failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Place<'_> {
    /// Adds the guest's network card to the host.
    pub fn add_network(&self) -> Result<()> {
        Ok(self.lab.add_tap(HOST, TAP)?)
    }

    /// Starts the guest, and waits until it is ready.
    pub fn start(&self, how: How, network: bool) -> Result<Running> {
        let [console, log] = ["console", "recording"].map(|name| self.lab.directory().join(name));
        let append = match network {
            true => self.guest.append(Some(GuestAddress::of(0)), false),
            false => format!("{} ud.redis=no", self.guest.append(None, false)),
        };
        let shown = File::create(&console).context("cannot make a file for the console")?;
        let mut command = match how {
            How::Ours | How::OursRecorded => self.ours(how, network, &append, &log),
            _ => self.qemu(how, network, &append, &log),
        };
        command.stdin(Stdio::piped()).stdout(shown.try_clone()?).stderr(shown);
        let before = cpu::waited_for_seconds()?;
        let child = self.lab.host(HOST)?.start(&mut command)?;
        let mut running = Running { child, console, log, before };
        running.await_ready()?;
        Ok(running)
    }

    fn ours(&self, how: How, network: bool, append: &str, log: &Path) -> Command {
        let mut command = Command::new(self.binary);
        command.args(["rv", "run", "--append", append]);
        command.arg("--kernel").arg(&self.guest.kernel).arg("--initrd").arg(&self.guest.initrd);
        if network {
            command.args(["--tap", TAP]);
        }
        if how == How::OursRecorded {
            command.arg("--record").arg(log);
        }
        command
    }

    fn qemu(&self, how: How, network: bool, append: &str, log: &Path) -> Command {
        let mut command = Command::new("qemu-system-riscv64");
        command.args([
            "-machine",
            "virt",
            "-m",
            "256M",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
        ]);
        command.args(["-serial", "stdio", "-append", append]);
        command.arg("-kernel").arg(&self.guest.kernel).arg("-initrd").arg(&self.guest.initrd);
        match how {
            How::Icount => drop(command.args(["-icount", "shift=auto"])),
            How::IcountRecorded => {
                command.args(["-icount", &format!("shift=auto,rr=record,rrfile={}", log.display())]);
            }
            _ => {}
        }
        if network {
            command.args(["-netdev", &format!("tap,id=n0,ifname={TAP},script=no,downscript=no")]);
            command.args(["-device", "virtio-net-device,netdev=n0"]);
            if how == How::IcountRecorded {
                command.args(["-object", "filter-replay,id=replay,netdev=n0"]);
            }
        }
        command
    }

    /// Processor time of doing a recording again, without its hashes at the end left out.
    pub fn replay(&self, log: &Path) -> Result<(f64, serde_json::Value)> {
        let before = cpu::waited_for_seconds()?;
        let mut command = Command::new(self.binary);
        command.args(["rv", "replay", "--output", "json"]).arg(log);
        let done = command.output().context("cannot replay")?;
        if !done.status.success() {
            bail!("the replay failed: {}", String::from_utf8_lossy(&done.stderr));
        }
        Ok((cpu::waited_for_seconds()? - before, serde_json::from_slice(&done.stdout)?))
    }
}

impl Running {
    fn await_ready(&mut self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let said = String::from_utf8_lossy(&fs::read(&self.console)?).into_owned();
            if said.contains("READY") {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() || Instant::now() > until {
                bail!("the guest does not get ready:\n{said}");
            }
            thread::sleep(GLANCE);
        }
    }

    /// Bytes of its recording by now.
    pub fn recorded(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log).context("there is no recording")?.len())
    }

    /// Has the guest switch itself off; the processor time of the whole run.
    pub fn end(mut self) -> Result<f64> {
        let keyboard = self.child.stdin.as_mut().context("it has no keyboard")?;
        keyboard.write_all(b"off\n").context("cannot type")?;
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                bail!("the guest does not switch itself off");
            }
            thread::sleep(GLANCE);
        }
        Ok(cpu::waited_for_seconds()? - self.before)
    }
}
