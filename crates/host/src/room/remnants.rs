//! Owns remnants: memory that outlived its VM's process here, kept for a while for a copy that comes back.
//!
//! Whoever moved away, lost its link or its term is often back within seconds. What it left is compared then in place of all
//! memory being sent anew (`primary::remnant`).

use os::Memory;
use protocol::VmName;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one is kept: a switch restarts in less.
const KEPT: Duration = Duration::from_secs(300);

/// Memory that goes back to the system when this is dropped. That takes a second for some ten GiB: not under a lock.
#[must_use = "to be dropped outside of any lock"]
pub struct GivenUp(#[expect(dead_code, reason = "to be dropped")] Vec<Arc<Memory>>);

/// The remnants at a host, one of each VM at most.
#[derive(Debug, Default)]
pub struct Remnants(BTreeMap<VmName, (Arc<Memory>, Instant)>);

impl Remnants {
    /// Keeps memory whose process ends, in the place of what there was of the VM.
    pub fn keep(&mut self, vm: &VmName, memory: Arc<Memory>, now: Instant) -> GivenUp {
        GivenUp(self.0.insert(vm.clone(), (memory, now)).into_iter().map(|(old, _)| old).collect())
    }

    /// What is left of this VM, which is kept no longer; none unless it is so many bytes, and its process is gone: nobody else
    /// has a hold of the memory then, which is what could still write to it.
    pub fn take(&mut self, vm: &VmName, len: u64) -> Option<Memory> {
        let (memory, _) = self.0.remove(vm)?;
        match Arc::try_unwrap(memory) {
            Ok(memory) => Some(memory).filter(|memory| memory.len() == len),
            Err(_) => {
                tracing::debug!(%vm, "what is left of its memory is still in use, and of no use");
                None
            }
        }
    }

    /// Gives one up.
    pub fn forget(&mut self, vm: &VmName) -> GivenUp {
        self.give_up(|name, _| name == vm)
    }

    /// Gives up all others.
    pub fn keep_only(&mut self, vm: &VmName) -> GivenUp {
        self.give_up(|name, _| name != vm)
    }

    /// Gives up those that were kept long enough.
    pub fn expire(&mut self, now: Instant) -> GivenUp {
        self.give_up(|_, since| now.saturating_duration_since(since) >= KEPT)
    }

    fn give_up(&mut self, which: impl Fn(&VmName, Instant) -> bool) -> GivenUp {
        let gone = self.0.extract_if(.., |name, (_, since)| which(name, *since));
        GivenUp(gone.map(|(_, (memory, _))| memory).collect())
    }

    /// Memory of all.
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|(memory, _)| memory.len()).sum()
    }

    /// Memory of all but this VM's.
    pub fn bytes_beside(&self, vm: &VmName) -> u64 {
        self.0.iter().filter(|(name, _)| *name != vm).map(|(_, (memory, _))| memory.len()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vm(name: &str) -> VmName {
        VmName::new(name).unwrap()
    }

    fn memory(pages: u64) -> Arc<Memory> {
        Arc::new(Memory::create("test-remnant", pages * 4096).unwrap())
    }

    #[test]
    fn one_is_taken_once_by_its_vm_when_its_process_is_gone() {
        let (mut remnants, now) = (Remnants::default(), Instant::now());
        let process = memory(2);
        process.write_at(4096, &[7]);
        let _gone = remnants.keep(&vm("a"), Arc::clone(&process), now);
        assert!(remnants.take(&vm("b"), 8192).is_none(), "another VM's");
        assert!(remnants.take(&vm("a"), 8192).is_none(), "the process can write to it");
        let _gone = remnants.keep(&vm("a"), Arc::clone(&process), now);
        drop(process);
        let mut byte = [0];
        remnants.take(&vm("a"), 8192).expect("the process is gone").read_at(4096, &mut byte);
        assert_eq!(byte, [7]);
        assert!(remnants.take(&vm("a"), 8192).is_none(), "it is taken");
        let _gone = remnants.keep(&vm("a"), memory(1), now);
        assert!(remnants.take(&vm("a"), 8192).is_none(), "the VM has more memory now");
    }

    #[test]
    fn they_are_given_up_after_a_while_and_when_others_want_the_room() {
        let (mut remnants, now) = (Remnants::default(), Instant::now());
        let _gone = remnants.keep(&vm("a"), memory(1), now);
        let _gone = remnants.keep(&vm("b"), memory(2), now + KEPT / 2);
        assert_eq!((remnants.bytes(), remnants.bytes_beside(&vm("b"))), (3 * 4096, 4096));
        let _gone = remnants.expire(now + KEPT);
        assert_eq!(remnants.bytes(), 2 * 4096);
        let _gone = remnants.keep(&vm("c"), memory(4), now);
        let _gone = remnants.keep_only(&vm("c"));
        assert_eq!(remnants.bytes(), 4 * 4096);
        let _gone = remnants.forget(&vm("c"));
        assert_eq!(remnants.bytes(), 0);
    }
}
