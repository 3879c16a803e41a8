//! Owns the taking of a checkpoint of the devices, and the form of what comes out.
//!
//! A checkpoint is three commands: `stop`, which makes a clean cut; `xen-save-devices-state`, which writes all
//! state but memory to a file; `cont`. The first two go to QEMU in one write ([`DeviceSaver::begin`]), so that the
//! caller copies memory while QEMU saves. The file is a memfd of ours, handed over once: no path, no disk.
//!
//! What QEMU writes is a migration stream without memory. Before another QEMU can load it, it needs the header and
//! the configuration section that name the machine ([`DeviceState::to_stream`]).
//! (QEMU migration/savevm.c `qemu_save_device_state`, `qemu_loadvm_state`)

use crate::qmp::{Command, Qmp, QmpError, Ticket};
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use serde_json::json;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `QEVM`, then version 3.
const HEADER: [u8; 8] = *b"QEVM\0\0\0\x03";
/// Marks of sections. (QEMU migration/savevm.h)
const EOF: u8 = 0x00;
const SECTION_FULL: u8 = 0x04;
const VM_DESCRIPTION: u8 = 0x06;
const CONFIGURATION: u8 = 0x07;

/// Largest device state accepted. Emulated devices need some 10 to 200 KiB.
pub const LARGEST_STATE: usize = 64 << 20;

/// What went wrong with a device state.
#[derive(Debug, thiserror::Error)]
pub enum DeviceStateError {
    /// QEMU refused, hangs or is gone.
    #[error(transparent)]
    Qmp(#[from] QmpError),
    /// The file of ours failed.
    #[error("cannot {action} the file for device states: {source}")]
    File {
        /// What was tried.
        action: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not a device state.
    #[error("this is not a device state of QEMU: {0}")]
    Malformed(&'static str),
    /// QEMU sent no event for a stop or a start.
    #[error("QEMU answered `{0}` without the event that goes with it")]
    NoEvent(&'static str),
}

fn file_error(action: &'static str) -> impl FnOnce(Errno) -> DeviceStateError {
    move |errno| DeviceStateError::File { action, source: errno.into() }
}

/// Takes device states of one VM, one after the other.
#[derive(Debug)]
pub struct DeviceSaver {
    qmp: Qmp,
    /// To read.
    file: OwnedFd,
    /// The description that QEMU has too: they share one position.
    shared: OwnedFd,
    filename: String,
}

impl DeviceSaver {
    /// Gives QEMU a file to write to.
    ///
    /// # Errors
    /// If the file cannot be made, or QEMU does not take it.
    pub fn new(qmp: &Qmp) -> Result<Self, DeviceStateError> {
        let file =
            rustix::fs::memfd_create("device-state", MemfdFlags::CLOEXEC).map_err(file_error("make"))?;
        // QEMU looks for a descriptor whose access mode is the one it wants to open with.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let shared = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(file_error("reopen"))?;
        let answer = qmp.execute_with_fd(Command::new("add-fd"), shared.as_fd())?;
        let set = answer["fdset-id"].as_u64().ok_or_else(|| QmpError::Unexpected {
            command: "add-fd".to_string(),
            answer: answer.to_string(),
        })?;
        Ok(Self { qmp: qmp.clone(), file, shared, filename: format!("/dev/fdset/{set}") })
    }

    /// Stops the guest and has its device state saved. The guest stays stopped until [`Pending::cont`], whatever
    /// fails.
    ///
    /// # Errors
    /// If the file cannot be rewound; then nothing was sent and the guest runs on.
    pub fn begin(&mut self) -> Result<Pending<'_>, DeviceStateError> {
        rustix::fs::seek(&self.shared, SeekFrom::Start(0)).map_err(file_error("rewind"))?;
        // `live: false` keeps QEMU from giving up the disks of a stopped VM.
        let save = json!({ "filename": self.filename, "live": false });
        let commands = [Command::new("stop"), Command::with("xen-save-devices-state", save)];
        let [stop, save] = self.qmp.send_all(commands);
        Ok(Pending { saver: self, stop: Some(stop), save: Some(save) })
    }
}

/// A checkpoint under way. The guest is stopped, or is being stopped.
///
/// Dropping it leaves the guest stopped: [`crate::Qemu::cont`] starts it again, also after an error.
#[derive(Debug)]
pub struct Pending<'a> {
    saver: &'a mut DeviceSaver,
    stop: Option<Ticket>,
    save: Option<Ticket>,
}

impl Pending<'_> {
    /// Waits until the guest is stopped: from here on its memory is still, and all it sent and wrote before has left
    /// QEMU. Returns when it stopped, by QEMU's clock in microseconds since 1970.
    ///
    /// # Errors
    /// If QEMU refuses, hangs or is gone.
    pub fn wait_stopped(&mut self) -> Result<u64, DeviceStateError> {
        if let Some(stop) = self.stop.take() {
            stop.wait()?;
        }
        self.saver.qmp.last_event_us("STOP").ok_or(DeviceStateError::NoEvent("stop"))
    }

    /// Waits until the device state is saved: the guest may go on.
    ///
    /// # Errors
    /// If QEMU refuses, hangs or is gone.
    pub fn wait_written(&mut self) -> Result<(), DeviceStateError> {
        self.wait_stopped()?;
        if let Some(save) = self.save.take() {
            save.wait()?;
        }
        Ok(())
    }

    /// Waits until the device state is saved, and puts it in `state`, whose room is used again.
    ///
    /// # Errors
    /// If QEMU refuses, hangs or is gone; what was saved is not a device state.
    pub fn wait_saved(&mut self, state: &mut DeviceState) -> Result<(), DeviceStateError> {
        self.wait_written()?;
        // QEMU writes from the start to the end, so the shared position is the length. What an earlier, longer
        // state left behind it is not read; truncating would only make the next save fault its pages in again.
        let end =
            rustix::fs::seek(&self.saver.shared, SeekFrom::Current(0)).map_err(file_error("measure"))?;
        let len = usize::try_from(end).expect("a 64-bit machine");
        if len > LARGEST_STATE {
            return Err(DeviceStateError::Malformed("it is far too large"));
        }
        state.0.resize(len, 0);
        read_exactly(&self.saver.file, &mut state.0)?;
        body(&state.0).map(drop)
    }

    /// Lets the guest run again. Returns when, by QEMU's clock: the time since [`Pending::wait_stopped`] is the pause.
    ///
    /// # Errors
    /// If QEMU refuses, hangs or is gone.
    pub fn cont(self) -> Result<u64, DeviceStateError> {
        self.saver.qmp.execute(Command::new("cont"))?;
        self.saver.qmp.last_event_us("RESUME").ok_or(DeviceStateError::NoEvent("cont"))
    }
}

fn read_exactly(file: &OwnedFd, bytes: &mut [u8]) -> Result<(), DeviceStateError> {
    let mut done = 0;
    while done < bytes.len() {
        let got = rustix::io::retry_on_intr(|| rustix::io::pread(file, &mut bytes[done..], done as u64))
            .map_err(file_error("read"))?;
        if got == 0 {
            return Err(DeviceStateError::Malformed("it ends early"));
        }
        done += got;
    }
    Ok(())
}

/// The state of a VM's devices at one moment, as QEMU saved it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeviceState(Vec<u8>);

impl DeviceState {
    /// Takes the bytes of a device state, for example from another host.
    ///
    /// # Errors
    /// If their outer form is not that of a device state. What is inside, only QEMU can judge.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, DeviceStateError> {
        body(&bytes)?;
        Ok(Self(bytes))
    }

    /// The bytes, as QEMU saved them.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The bytes, as QEMU saved them.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The migration stream that puts this state into a waiting QEMU of exactly this machine type.
    ///
    /// # Errors
    /// If nothing was saved yet.
    pub fn to_stream(&self, machine: &str) -> Result<Vec<u8>, DeviceStateError> {
        let body = body(&self.0)?;
        let name_len = u32::try_from(machine.len()).expect("machine types are short");
        let mut stream = Vec::with_capacity(self.0.len() + machine.len() + 32);
        stream.extend_from_slice(&HEADER);
        stream.push(CONFIGURATION);
        stream.extend_from_slice(&name_len.to_be_bytes());
        stream.extend_from_slice(machine.as_bytes());
        stream.extend_from_slice(body);
        // QEMU expects a description of the sections after them, and complains without.
        stream.push(VM_DESCRIPTION);
        stream.extend_from_slice(&0_u32.to_be_bytes());
        Ok(stream)
    }
}

/// The sections of a device state with their end mark, without the header and a configuration section.
fn body(bytes: &[u8]) -> Result<&[u8], DeviceStateError> {
    let malformed = DeviceStateError::Malformed;
    let mut rest =
        bytes.strip_prefix(&HEADER).ok_or(malformed("it does not begin with QEVM and version 3"))?;
    if let Some(section) = rest.strip_prefix(&[CONFIGURATION]) {
        let cut = malformed("its configuration section is cut off");
        let Some((len, after)) = section.split_first_chunk() else { return Err(cut) };
        let len = usize::try_from(u32::from_be_bytes(*len)).expect("a 64-bit machine");
        rest = after.get(len..).ok_or(cut)?;
    }
    match rest {
        [SECTION_FULL, .., EOF] => Ok(rest),
        [SECTION_FULL, ..] => Err(malformed("it has no end mark")),
        _ => Err(malformed("it has no sections")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(inner: &[u8]) -> Vec<u8> {
        [&HEADER[..], &[SECTION_FULL], inner, &[EOF]].concat()
    }

    #[test]
    fn the_stream_names_the_machine_before_the_sections() {
        let stream = DeviceState::from_bytes(state(b"xyz")).unwrap().to_stream("pc-q35-7.2").unwrap();
        assert_eq!(stream, b"QEVM\0\0\0\x03\x07\0\0\0\x0apc-q35-7.2\x04xyz\0\x06\0\0\0\0");
    }

    #[test]
    fn a_configuration_section_of_the_source_is_replaced() {
        let bytes = [&HEADER[..], b"\x07\0\0\0\x03old", b"\x04xyz\0"].concat();
        let stream = DeviceState::from_bytes(bytes).unwrap().to_stream("new").unwrap();
        assert_eq!(stream, b"QEVM\0\0\0\x03\x07\0\0\0\x03new\x04xyz\0\x06\0\0\0\0");
    }

    #[test]
    fn what_is_not_a_whole_state_is_refused() {
        let whole = state(b"xyz");
        assert!(DeviceState::from_bytes(whole.clone()).is_ok());
        for cut in 0..whole.len() {
            assert!(DeviceState::from_bytes(whole[..cut].to_vec()).is_err(), "{cut}");
        }
        let mut version = whole;
        version[7] = 4;
        assert!(DeviceState::from_bytes(version).is_err());
        assert!(DeviceState::default().to_stream("m").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(header in any::<bool>(), bytes in proptest::collection::vec(0_u8..9, 0..60)) {
            let bytes = if header { [&HEADER[..], &bytes].concat() } else { bytes };
            let _ = DeviceState::from_bytes(bytes);
        }

        #[test]
        fn sections_come_through_unchanged(inner in proptest::collection::vec(any::<u8>(), 0..99), name in "[a-z0-9.-]{1,30}") {
            let stream = DeviceState::from_bytes(state(&inner)).unwrap().to_stream(&name).unwrap();
            let sections = [&[SECTION_FULL], &inner[..], &[EOF]].concat();
            prop_assert_eq!(&stream[13 + name.len()..stream.len() - 5], &sections[..]);
        }
    }
}
