//! Owns a difference map with its file: marks before writes, and the cleaning behind them.

use super::error::MapError;
use super::file::MapFile;
use crate::journal::Storage;
use protocol::resync::record::{self, Layout, Row, SECTOR};
use protocol::resync::{Base, Differences, DiskOffer, Extent, Grain, Repair};
use protocol::{Epoch, VmId};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Past so many active extents cleaning is due, and it leaves half of them: with 4 MiB each, a crash of this host
/// makes up to 4 GiB to compare.
const MANY: usize = 1_024;

/// For displays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MapStatus {
    /// What the map is good for.
    pub bases: Vec<Base>,
    /// Marked bytes of each disk.
    pub marked_bytes: Vec<u64>,
    /// Extents that are active.
    pub active: usize,
    /// Times that a write waited for extents to be activated.
    pub activations: u64,
    /// Why the map is of no use.
    pub trouble: Option<String>,
}

struct State {
    map: Differences,
    /// The file is there.
    exists: bool,
    /// Somebody writes into the file; nobody else may.
    writing: bool,
    /// Extents that others wait for.
    wanted: Vec<Extent>,
    /// The head as the file has it.
    head: [u8; SECTOR],
    activations: u64,
    /// The file could not be written and is gone: nothing is marked any more.
    void: Option<String>,
}

impl State {
    /// Marks bytes, unless nothing need be marked; or gives the extents that must be active first, and marks nothing.
    fn mark(&mut self, disk: u8, offset: u64, len: u64) -> Vec<Extent> {
        if self.void.is_some() || !self.map.is_wanted() {
            return Vec::new();
        }
        let missing = self.map.inactive(disk, offset, len);
        if missing.is_empty() {
            self.map.mark(disk, offset, len);
        }
        missing
    }
}

/// See the module.
pub struct DifferenceMap<S> {
    file: MapFile<S>,
    state: Mutex<State>,
    /// Nobody writes any more.
    written: Condvar,
}

impl<S: Storage> DifferenceMap<S> {
    /// The map in `name`, as a crash or the last user left it; a map of no use, without a file, if there is none.
    ///
    /// # Errors
    /// If the file cannot be read, or holds no map of these disks of this VM.
    pub fn open(storage: Arc<S>, name: &str, vm: VmId, sizes: &[u64]) -> Result<Self, MapError> {
        let file = MapFile { storage, name: name.to_owned(), vm, layout: Layout::new(Grain::DISK, sizes) };
        let read = file.read(Grain::DISK, sizes)?;
        let exists = read.is_some();
        let map = read.unwrap_or_else(|| Differences::new(Grain::DISK, sizes, &[]));
        Ok(Self::with(file, map, exists))
    }

    /// Makes the map of copies that are, or begin to differ from, the state which `bases` name; without any the map is
    /// of no use until a session is acknowledged. Whatever is in `name` is replaced.
    ///
    /// # Errors
    /// If it cannot be made durable.
    pub fn create(
        storage: Arc<S>,
        name: &str,
        vm: VmId,
        sizes: &[u64],
        bases: &[Base],
    ) -> Result<Self, MapError> {
        let file = MapFile { storage, name: name.to_owned(), vm, layout: Layout::new(Grain::DISK, sizes) };
        let map = Differences::new(Grain::DISK, sizes, bases);
        file.create(&map)?;
        Ok(Self::with(file, map, true))
    }

    fn with(file: MapFile<S>, map: Differences, exists: bool) -> Self {
        let head = record::head(&map, file.vm);
        let state =
            State { map, exists, writing: false, wanted: Vec::new(), head, activations: 0, void: None };
        Self { file, state: Mutex::new(state), written: Condvar::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is whole before anything in it can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks bytes that are about to be written. When it returns, a crash at any time finds them marked. True if
    /// extents were activated for it and cleaning is due.
    ///
    /// # Errors
    /// If the mark cannot be made durable and the map cannot be removed either: then nothing may be written, or a
    /// later resynchronisation would trust a map that lies.
    pub fn before_write(&self, disk: u8, offset: u64, len: u64) -> Result<bool, MapError> {
        let mut state = self.state();
        let mut waited = false;
        loop {
            let missing = state.mark(disk, offset, len);
            if missing.is_empty() {
                return Ok(waited && state.void.is_none() && state.map.active() > MANY);
            }
            state.wanted.extend(missing);
            waited = true;
            if state.writing {
                state = self.written.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                state = self.activate(state)?;
            }
        }
    }

    /// Marks them if that needs no waiting; false if [`before_write`](Self::before_write) must.
    #[must_use]
    pub fn mark_at_once(&self, disk: u8, offset: u64, len: u64) -> bool {
        self.state().mark(disk, offset, len).is_empty()
    }

    /// Makes all extents active that anybody waits for, with one sync.
    fn activate<'a>(&'a self, mut state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, MapError> {
        let mut extents = std::mem::take(&mut state.wanted);
        extents.sort_unstable();
        extents.dedup();
        state.map.list(&extents);
        let sectors = self.file.layout.listing(&extents).into_iter();
        let sectors: Vec<_> = sectors.map(|place| self.sector(&state, Row::Listed, place)).collect();
        state.writing = true;
        drop(state);
        let done = self.file.write(&sectors).and_then(|()| self.file.sync());
        let mut state = self.state();
        state.writing = false;
        self.written.notify_all();
        match done {
            Ok(()) => {
                state.map.activate(&extents);
                state.activations += 1;
            }
            Err(error) => self.give_up(&mut state, &error)?,
        }
        Ok(state)
    }

    fn sector(&self, state: &State, row: Row, (disk, at): (u8, u64)) -> (u64, [u8; SECTOR]) {
        (at, record::sector(&state.map, &self.file.layout, disk, row, at))
    }

    /// The file cannot be written. Without it nothing has to be marked.
    fn give_up(&self, state: &mut State, error: &MapError) -> Result<(), MapError> {
        if state.exists {
            self.file.remove()?;
        }
        tracing::error!(%error, "the difference map is given up: disks are compared whole when a copy comes back");
        state.void = Some(error.to_string());
        state.exists = false;
        Ok(())
    }

    /// A session begins: from now on everything is marked.
    ///
    /// # Errors
    /// If there is no file yet and none can be made.
    pub fn begin_session(&self, session: Base) -> Result<(), MapError> {
        let mut state = self.writer();
        if !state.exists && state.void.is_none() {
            // Whoever writes meanwhile is told that no marks are wanted; the session's first cut is still to come.
            self.file.create(&state.map)?;
            state.exists = true;
        }
        state.map.begin_session(session);
        Ok(())
    }

    /// The session is over.
    pub fn end_session(&self) {
        self.state().map.end_session();
    }

    /// An epoch was cut, at a time when nothing is being written.
    pub fn cut(&self, epoch: Epoch) {
        self.state().map.cut(epoch);
    }

    /// This session, begun beside the present one, takes its place: the newest cut was its first epoch.
    pub fn succeed(&self, session: Base) {
        self.state().map.succeed(session);
    }

    /// The first epoch of this session, the present one or one begun beside it, is about to be sent.
    ///
    /// # Errors
    /// If the session's name cannot be written down; the epoch may be sent all the same, and the copies would be
    /// compared whole.
    pub fn propose(&self, session: Base) -> Result<(), MapError> {
        let mut state = self.writer();
        if state.void.is_some() {
            return Ok(());
        }
        state.map.propose(session);
        self.write_head(&mut state)
    }

    /// An epoch of the session is acknowledged. True if cleaning is due.
    pub fn acknowledged(&self, epoch: Epoch) -> bool {
        let mut state = self.state();
        let first = state.map.acknowledged(epoch);
        state.void.is_none() && (first || state.map.active() > MANY)
    }

    /// Waits until nobody writes into the file, and keeps it so while the guard is held.
    fn writer(&self) -> MutexGuard<'_, State> {
        let state = self.state();
        self.written.wait_while(state, |state| state.writing).unwrap_or_else(PoisonError::into_inner)
    }

    fn write_head(&self, state: &mut State) -> Result<(), MapError> {
        let head = record::head(&state.map, self.file.vm);
        if state.exists && head != state.head {
            self.file.write(&[(0, head)])?;
            self.file.sync()?;
            state.head = head;
        }
        Ok(())
    }

    /// Forgets what is settled, and retires extents until few are active. `sync` brings everything that was written
    /// to the disks onto their media.
    ///
    /// # Errors
    /// If something fails; then marks stay that could have gone.
    pub fn clean(&self, sync: impl FnOnce() -> Result<(), String>) -> Result<(), MapError> {
        let settled = {
            let state = self.state();
            state.map.has_settled().then(|| state.map.settled())
        };
        // Outside the lock: the guest writes on.
        if settled.is_some() {
            sync().map_err(MapError::Sync)?;
        }
        let (places, sectors) = {
            let mut state = self.writer();
            if state.void.is_some() || !state.exists {
                return Ok(());
            }
            self.write_head(&mut state)?;
            if let Some(settled) = settled {
                state.map.forget(settled);
            }
            let places = state.map.unsaved(&self.file.layout);
            let sectors: Vec<_> =
                places.iter().map(|&place| self.sector(&state, Row::Saved, place)).collect();
            state.writing = true;
            (places, sectors)
        };
        let saved = if sectors.is_empty() {
            Ok(())
        } else {
            self.file.write(&sectors).and_then(|()| self.file.sync())
        };
        let mut state = self.state();
        let done = saved.and_then(|()| {
            for (&(disk, at), (_, sector)) in places.iter().zip(&sectors) {
                state.map.saved(&self.file.layout, disk, at, sector);
            }
            if state.map.active() > MANY {
                state.map.retire(MANY / 2);
            }
            // Not synced: that an extent is still listed after a crash costs a comparison, no more.
            self.file.write(&self.listing(&state))
        });
        state.writing = false;
        self.written.notify_all();
        done
    }

    fn listing(&self, state: &State) -> Vec<(u64, [u8; SECTOR])> {
        let disks = (0u8..).take(state.map.sizes().len());
        let places = disks.flat_map(|disk| self.file.layout.row(disk, Row::Listed).map(move |at| (disk, at)));
        places.map(|place| self.sector(state, Row::Listed, place)).collect()
    }

    /// Nothing is written any more: the file is brought to say exactly what memory says.
    ///
    /// # Errors
    /// If something fails; then the file marks more.
    pub fn close(&self, sync: impl FnOnce() -> Result<(), String>) -> Result<(), MapError> {
        self.end_session();
        self.clean(sync)?;
        let mut state = self.writer();
        if state.void.is_some() || !state.exists {
            return Ok(());
        }
        state.map.retire(0);
        self.file.write(&self.listing(&state))?;
        self.file.sync()
    }

    /// What is offered to a primary of copies that this map belongs to.
    #[must_use]
    pub fn offer(&self) -> DiskOffer {
        let state = self.state();
        match state.void {
            Some(_) => DiskOffer::Copies { bases: Vec::new(), marked: Vec::new() },
            None => DiskOffer::of(&state.map),
        }
    }

    /// What is to be done so that copies which are offered become these disks.
    #[must_use]
    pub fn repair(&self, offer: &DiskOffer) -> Repair {
        let state = self.state();
        match (&state.void, offer) {
            (Some(_), DiskOffer::Copies { .. }) => Repair::CompareAll(state.map.everything()),
            _ => offer.repair(&state.map),
        }
    }

    /// Why the map was given up, if it was.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.state().void.clone()
    }

    /// For displays: counts every mark, which takes its time on a large disk.
    #[must_use]
    pub fn status(&self) -> MapStatus {
        let state = self.state();
        let disks = (0u8..).take(state.map.sizes().len());
        MapStatus {
            bases: state.map.bases().to_vec(),
            marked_bytes: disks.map(|disk| state.map.marked_bytes(disk)).collect(),
            active: state.map.active(),
            activations: state.activations,
            trouble: state.void.clone(),
        }
    }
}

impl<S> std::fmt::Debug for DifferenceMap<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DifferenceMap").field("name", &self.file.name).finish_non_exhaustive()
    }
}
