//! Owns the form of a device state: what QEMU saves of everything but memory, and what another QEMU loads.
//!
//! What QEMU writes is a migration stream without memory. Before another QEMU can load it, it needs the header and
//! the configuration section that name the machine ([`DeviceState::to_stream`]).
//! (QEMU migration/savevm.c `qemu_save_device_state`, `qemu_loadvm_state`)

use crate::qmp::QmpError;

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
    /// The pipe that it comes by failed.
    #[error("cannot {action} the pipe for device states: {source}")]
    Pipe {
        /// What was tried.
        action: &'static str,
        /// The reason.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not a device state.
    #[error("this is not a device state of QEMU: {0}")]
    Malformed(&'static str),
    /// The state was so much shorter than those before that it went by as a whole: the guest may have run before all was copied.
    #[error(
        "the device state is much shorter than those before ({0} bytes): QEMU did not wait with it, and the next one will be waited for"
    )]
    NotHeld(usize),
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
