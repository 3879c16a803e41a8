//! Owns what this host has for standbys: whether one more fits, and the reservations of those that were taken.
//!
//! A reservation is made before anything is done for a standby, under one lock, so that two primaries that come at once
//! cannot both get the last place. It ends when it is dropped: however a standby's life ends, its room is free again.
//!
//! Remnants take what nobody else wants.

mod account;
mod media;
mod remnants;

pub use account::{Needs, Tenant};

use crate::backup::{BUFFERS, JOURNAL_LIMIT};
use crate::config::HostConfig;
use crate::disks::journal_directory;
use account::{Account, Limits, Media, Shortage, Ticket};
use api::types::{PlaceStatus, RoomStatus, RoomTenant};
use media::FileSystems;
use os::Memory;
use protocol::wire::Refusal;
use protocol::{HostName, VmName};
use remnants::Remnants;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Kept for the system, QEMU's own memory and the agent where nothing is configured: at least this, or a sixteenth.
const LEAST_RESERVE: u64 = 256 << 20;
/// How often to look whether a remnant was kept long enough.
const BETWEEN_LOOKS: Duration = Duration::from_secs(5);

/// What a host has for standbys, and who has it.
#[derive(Debug)]
pub struct Room {
    host: HostName,
    account: Mutex<Account>,
    remnants: Mutex<Remnants>,
}

/// A standby's place, or that of a VM that was one; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    room: Arc<Room>,
    vm: VmName,
    ticket: Ticket,
    buffers: u64,
}

impl Room {
    /// What the configuration says, or else what the host has available now without a reserve.
    #[must_use]
    pub fn of(config: &HostConfig) -> Arc<Self> {
        let derived = || {
            let reserve = (os::facts::total_memory() / 16).max(LEAST_RESERVE);
            os::facts::available_memory().saturating_sub(reserve)
        };
        let limits = Limits {
            memory: config.backup.memory.map_or_else(derived, |memory| memory.0),
            vms: config.backup.vms,
            whole_host: config.backup.memory.is_none(),
        };
        let (account, remnants) = (Mutex::new(Account::new(limits)), Mutex::default());
        Arc::new(Self { host: config.name.clone(), account, remnants })
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reserves what a standby needs.
    ///
    /// # Errors
    /// What is missing, for its primary; then nothing has changed.
    pub fn reserve(self: &Arc<Self>, vm: &VmName, needs: Needs) -> Result<Reservation, Refusal> {
        let buffers = needs.buffers;
        let admitted = self.account().admit(vm, needs, &FileSystems);
        let ticket = admitted.map_err(|shortage| self.refusal(shortage))?;
        self.make_room(vm);
        Ok(Reservation { room: Arc::clone(self), vm: vm.clone(), ticket, buffers })
    }

    fn refusal(&self, shortage: Shortage) -> Refusal {
        let Shortage { lack, needs, left, of } = shortage;
        Refusal::NoRoom { host: self.host.clone(), lack, needs, left, of }
    }

    /// Whether what a standby needs would be reserved now, in words.
    ///
    /// # Errors
    /// What is missing.
    pub fn would_take(&self, vm: &VmName, needs: &Needs) -> Result<String, Refusal> {
        let account = self.account();
        account.fits(vm, needs, &FileSystems).map_err(|shortage| self.refusal(shortage))?;
        let left = account.limits().memory.saturating_sub(account.used());
        let wants = needs.memory.saturating_add(needs.buffers);
        Ok(format!("it takes {} MiB of memory, {} MiB are left", wants >> 20, left >> 20))
    }

    /// An operator starts a VM here.
    #[must_use]
    pub fn started(self: &Arc<Self>, vm: &VmName, memory: u64) -> Reservation {
        let ticket = self.account().started(vm, memory);
        self.forget_remnant(vm);
        self.make_room(vm);
        Reservation { room: Arc::clone(self), vm: vm.clone(), ticket, buffers: 0 }
    }

    /// This VM has room now; what was not wanted before may be.
    fn make_room(&self, vm: &VmName) {
        let _gone = {
            let account = self.account();
            let mut remnants = self.remnants();
            let all = account.used().saturating_add(remnants.bytes_beside(vm));
            (all > account.limits().memory).then(|| remnants.keep_only(vm))
        };
    }

    fn remnants(&self) -> MutexGuard<'_, Remnants> {
        self.remnants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the memory of a VM whose process ends for a while, if there is room.
    pub fn keep_remnant(&self, vm: &VmName, memory: Option<Arc<Memory>>) {
        let _gone = {
            let account = self.account();
            let mut remnants = self.remnants();
            let taken = account.used_beside(vm).saturating_add(remnants.bytes_beside(vm));
            let fits = |memory: &Arc<Memory>| taken.saturating_add(memory.len()) <= account.limits().memory;
            memory.filter(fits).map(|memory| remnants.keep(vm, memory, Instant::now()))
        };
    }

    /// What is left of this VM's memory, of so many bytes, if anything is.
    pub fn take_remnant(&self, vm: &VmName, len: u64) -> Option<Memory> {
        self.remnants().take(vm, len)
    }

    /// Nobody wants what is left of this VM.
    pub fn forget_remnant(&self, vm: &VmName) {
        let _gone = self.remnants().forget(vm);
    }

    /// Gives up what was kept long enough, from a thread of its own, until the room is dropped.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn watch_remnants(self: &Arc<Self>) -> std::io::Result<()> {
        let room = Arc::downgrade(self);
        let watch = move || {
            while let Some(room) = room.upgrade() {
                let gone = room.remnants().expire(Instant::now());
                drop((room, gone));
                std::thread::sleep(BETWEEN_LOOKS);
            }
        };
        std::thread::Builder::new().name("ud-remnants".into()).spawn(watch).map(drop)
    }

    /// For the API.
    #[must_use]
    pub fn status(&self) -> RoomStatus {
        let account = self.account();
        let limits = account.limits();
        let tenant = |(vm, tenant, memory_bytes): (&VmName, Tenant, u64)| RoomTenant {
            vm: vm.clone(),
            standby: tenant == Tenant::Standby,
            memory_bytes,
        };
        RoomStatus {
            memory_bytes: limits.memory,
            memory_left_bytes: limits.memory.saturating_sub(account.used()),
            configured: !limits.whole_host,
            vms: limits.vms,
            remnant_bytes: self.remnants().bytes(),
            tenants: account.tenants().map(tenant).collect(),
        }
    }
}

impl Reservation {
    /// A standby's buffers must hold so many bytes: more memory is asked for past what they have, and given back later.
    ///
    /// # Errors
    /// In words, what is left, if that is too little.
    pub fn hold(&mut self, bytes: u64) -> Result<(), String> {
        let wanted = buffers_for(bytes);
        if wanted == self.buffers {
            return Ok(());
        }
        let resized = self.room.account().resize(&self.vm, self.ticket, wanted);
        resized.map_err(|Shortage { left, of, .. }| {
            let mib = |bytes: u64| bytes >> 20;
            format!(
                "{} MiB of checkpoints of VM {} wait at host {}, which has {} of {} MiB left for it and its standby: \
                 raise [backup] memory there",
                mib(bytes),
                self.vm,
                self.room.host,
                mib(left),
                mib(of),
            )
        })?;
        self.room.make_room(&self.vm);
        self.buffers = wanted;
        Ok(())
    }

    /// The standby is the VM now.
    pub fn took_over(&mut self) {
        self.room.account().took_over(&self.vm, self.ticket);
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.room.account().release(&self.vm, self.ticket);
    }
}

/// Buffers that hold so many bytes beside what the connection reads ahead and recent input: the usual ones, or more in
/// steps, so that the account is seldom asked.
fn buffers_for(bytes: u64) -> u64 {
    const STEP: u64 = 16 << 20;
    BUFFERS.max((bytes.div_ceil(STEP) + 2).saturating_mul(STEP))
}

/// Where a host keeps what it is given, and what is left there.
#[must_use]
pub fn places(config: &HostConfig) -> Vec<PlaceStatus> {
    let place =
        |what: &str, path: PathBuf| PlaceStatus { what: what.into(), free: FileSystems.free(&path), path };
    let (state, disks) = (config.state_dir.clone(), config.disk_path(Path::new("")));
    vec![place("journals and logs", state), place("disk images", disks)]
}

/// What a standby takes: its guest's memory, buffers, and on the media what replicas and journal do not have there yet.
#[must_use]
pub fn needs(config: &HostConfig, vm: &VmName, memory: u64, images: &[(PathBuf, u64)]) -> Needs {
    let mut files = Vec::new();
    if !images.is_empty() {
        files.push((journal_directory(config, vm), JOURNAL_LIMIT));
    }
    if !config.backup.sparse_disks {
        files.extend(images.iter().map(|(image, size)| (config.disk_path(image), *size)));
    }
    Needs { memory, buffers: BUFFERS, files }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn room(memory: &str) -> Arc<Room> {
        let text = format!(
            "name = 'beta'\nlisten = '127.0.0.1:1'\nstate_dir = '/x'\napi_socket = '/s'\n[arbiter]\ndirectory = '/a'\n[backup]\nmemory = '{memory}'"
        );
        Room::of(&toml::from_str(&text).unwrap())
    }

    fn vm(number: u32) -> VmName {
        VmName::new(&format!("vm{number}")).unwrap()
    }

    fn standby(mib: u64) -> Needs {
        Needs { memory: mib << 20, ..Needs::default() }
    }

    #[test]
    fn of_many_that_come_at_once_as_many_get_a_place_as_there_are() {
        let room = room("10MiB");
        let start = std::sync::Barrier::new(16);
        let ask = |number| {
            start.wait();
            room.reserve(&vm(number), standby(3)).ok()
        };
        let places: Vec<_> = std::thread::scope(|scope| {
            let asking: Vec<_> = (0..16).map(|number| scope.spawn(move || ask(number))).collect();
            asking.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!((places.len(), room.status().memory_left_bytes), (3, 1 << 20));
        drop(places);
        assert_eq!(room.status().memory_left_bytes, 10 << 20);
    }

    #[test]
    fn a_refusal_says_what_is_needed_what_is_left_and_what_to_do() {
        let room = room("8GiB");
        let _held = room.reserve(&vm(1), standby(6_963)).unwrap();
        let refused = room.reserve(&vm(2), standby(2_150)).unwrap_err().to_string();
        let says = "host beta has 1.2 GiB of 8.0 GiB of memory left for standbys, and this VM needs 2.1 GiB";
        assert!(refused.contains(says), "{refused}");
        assert!(refused.contains("raise [backup] memory"), "{refused}");
    }

    #[test]
    fn a_remnant_takes_only_what_nobody_else_wants() {
        let room = room("10MiB");
        let memory = |mib: u64| Some(Arc::new(Memory::create("test-room", mib << 20).unwrap()));
        let _others = room.reserve(&vm(2), standby(4)).unwrap();
        room.keep_remnant(&vm(1), memory(7));
        assert_eq!(room.status().remnant_bytes, 0, "there is no room");
        room.keep_remnant(&vm(1), memory(5));
        assert_eq!((room.status().remnant_bytes, room.status().memory_left_bytes), (5 << 20, 6 << 20));
        let mine = room.reserve(&vm(1), standby(5)).unwrap();
        assert_eq!(room.status().remnant_bytes, 5 << 20, "it comes back");
        drop(mine);
        let _third = room.reserve(&vm(3), standby(6)).expect("remnants are in nobody's way");
        assert_eq!(room.status().remnant_bytes, 0);
        room.keep_remnant(&vm(2), memory(4));
        room.forget_remnant(&vm(2));
        assert!(room.take_remnant(&vm(2), 4 << 20).is_none());
    }

    #[test]
    fn buffers_grow_in_steps_while_there_is_room_and_shrink_again() {
        let room = room("300MiB");
        let mut held = room.reserve(&vm(1), Needs { buffers: BUFFERS, ..standby(64) }).unwrap();
        held.hold(1 << 20).unwrap();
        assert_eq!(room.status().memory_left_bytes, (300 << 20) - (64 << 20) - BUFFERS);
        held.hold(190 << 20).unwrap();
        assert!(room.status().memory_left_bytes < 30 << 20);
        let why = held.hold(400 << 20).unwrap_err();
        assert!(why.contains("vm1") && why.contains("beta"), "{why}");
        held.hold(0).unwrap();
        assert_eq!(room.status().memory_left_bytes, (300 << 20) - (64 << 20) - BUFFERS);
    }
}
