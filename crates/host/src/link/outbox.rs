//! Owns what waits to be written on a replication connection, and the thread that writes it.
//!
//! Pages are encoded here, off the guest's path and off the engine's loop. The counts that a Commit carries are
//! taken where the frames are written, so that they say what was sent and not what was meant.

use super::input::{LINGER, WaitingInput};
use super::paths::Bundle;
use crate::ablation::{Piece, without};
use crate::disks::{Kept, KeptChange};
use crate::loops::{Haste, micros};
use crate::ram::{GuestRam, RamError};
use crate::staging::PooledBuffer;
use crossbeam_channel::{Receiver, RecvError, Sender, at, never, unbounded};
use protocol::packing::{Batch, Packing};
use protocol::wire::device::DeviceStates;
use protocol::wire::disk::{DiskBatch, MAX_DATA};
use protocol::wire::known::{KnownPages, MAX_KNOWN};
use protocol::wire::pages::{PAGE, PageBatch};
use protocol::wire::{Commit, HEADER_LEN, Kind, MAX_BODY_LEN, Outbound, ToBackup, ToPrimary};
use protocol::{Change, Epoch, Session, Term, VmId, What};
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Whether pages are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pack {
    /// Bytes are dear, or bounded: whatever becomes shorter is packed.
    Always,
    /// They shall be there soon (`protocol::packing`).
    IfSooner,
}

/// Pages of one checkpoint (or of the first copy), copied out of the guest.
#[derive(Debug)]
pub struct Part {
    /// RAM block and page index of each page, in the order of the buffer; none for a page that is not to be sent.
    pages: Vec<Option<(u8, u64)>>,
    /// Their contents.
    buffer: PooledBuffer,
    pack: Pack,
    /// They are everything once: nothing is known of them, and nothing is kept to be compared with.
    once: bool,
}

impl Part {
    /// Copies pages out of a guest into `buffer`, which has room for them.
    ///
    /// # Errors
    /// If QEMU is gone.
    pub fn copy(ram: &GuestRam, pages: &[(u8, u64)], mut buffer: PooledBuffer) -> Result<Self, RamError> {
        ram.copy_out(pages, &mut buffer.bytes_mut()[..pages.len() * PAGE])?;
        Ok(Self::new(pages, buffer))
    }

    /// The pages that were copied into `buffer`, one behind the other.
    #[must_use]
    pub fn new(pages: &[(u8, u64)], buffer: PooledBuffer) -> Self {
        Self { pages: pages.iter().copied().map(Some).collect(), buffer, pack: Pack::Always, once: false }
    }

    /// The same pages, packed in this way.
    #[must_use]
    pub fn packed(self, pack: Pack) -> Self {
        Self { pack, ..self }
    }

    /// The same pages, of a first copy's first round or not: the others are sent as what changed where that is less.
    #[must_use]
    pub fn once(self, once: bool) -> Self {
        Self { once, ..self }
    }

    /// How many pages were copied.
    #[must_use]
    pub fn copied(&self) -> usize {
        self.pages.len()
    }

    /// The pages that are to be sent.
    pub fn pages(&self) -> impl Iterator<Item = (u8, u64)> + '_ {
        self.pages.iter().copied().flatten()
    }

    /// Does not send pages of which that is so.
    pub fn leave_out_if(&mut self, so: impl Fn((u8, u64), &[u8; PAGE]) -> bool) {
        for (slot, bytes) in self.pages.iter_mut().zip(self.buffer.bytes().as_chunks().0) {
            slot.take_if(|page| so(*page, bytes));
        }
    }

    /// Does not send the page at this place.
    pub fn leave_out(&mut self, at: usize) {
        self.pages[at] = None;
    }
}

/// What was written for an epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// The epoch.
    pub epoch: Epoch,
    /// Frames of bulk data.
    pub frames: u64,
    /// Bytes on the wire, headers included.
    pub wire_bytes: u64,
    /// Pages.
    pub pages: u64,
    /// Of them sent as what changed.
    pub deltas: u64,
    /// Of them not sent: the guest wrote what was there.
    pub unchanged: u64,
}

/// Bytes on the wire, headers included, of a first copy, and what it spared.
#[derive(Debug, Default)]
pub struct CopyWire {
    /// Changes of the first copy, those that the guest made meanwhile included.
    pub data: AtomicU64,
    /// Questions for hashes, and hashes: of the disks, and then of memory.
    pub hashes: AtomicU64,
    /// Those of the disks, once they are done.
    pub disk_hashes: AtomicU64,
    /// Pages of memory.
    pub memory: AtomicU64,
    /// Bytes of memory that were compared with a remnant; they were not sent.
    pub compared: AtomicU64,
    /// Bytes of them that differed.
    pub differing: AtomicU64,
}

impl CopyWire {
    /// Hashes are of memory from now on.
    pub fn disks_are_done(&self) {
        self.disk_hashes.store(self.hashes.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Counts a frame with a body of `len` bytes, if it is one of these.
    pub fn count(&self, kind: Kind, epoch: Epoch, len: usize) {
        let bytes = (len + HEADER_LEN) as u64;
        match kind {
            Kind::Disk if epoch == Epoch(0) => self.data.fetch_add(bytes, Ordering::Relaxed),
            Kind::Pages if epoch == Epoch(0) => self.memory.fetch_add(bytes, Ordering::Relaxed),
            Kind::Ask | Kind::Hashes => self.hashes.fetch_add(bytes, Ordering::Relaxed),
            _ => 0,
        };
    }
}

enum Item {
    Message(Kind, Epoch, Vec<u8>),
    Part(Epoch, Part),
    Device(Epoch, Vec<u8>),
    Disks(Epoch, Vec<KeptChange>),
    Console(Epoch, Vec<u8>),
    Commit(Epoch, Commit),
    /// Some waits, since now.
    Input,
    Close,
}

/// What frames are written to. Dropping it closes it behind what was written.
#[derive(Debug)]
pub enum Wire {
    /// One connection.
    One(trust::Sender),
    /// Several, of which one may be lost.
    Several(Arc<Bundle>),
}

impl Drop for Wire {
    fn drop(&mut self) {
        if let Self::Several(bundle) = self {
            bundle.close();
        }
    }
}

/// The sending half of a replication connection. Dropping it closes the connection behind what was queued.
#[derive(Debug, Clone)]
pub struct Outbox {
    queue: Sender<Item>,
    /// Heartbeats: they overtake pages, so that a large checkpoint does not make them late.
    urgent: Sender<Item>,
    /// What the guest was given.
    input: Arc<WaitingInput>,
    /// Bytes of disks that wait.
    disks: Arc<AtomicUsize>,
    copied: Arc<CopyWire>,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Item")
    }
}

impl Outbox {
    /// Starts the writing thread. `written` hears of every Commit that was written.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start(
        wire: Wire,
        (vm, term, session): (VmId, Term, Session),
        written: impl Fn(Written) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, items) = unbounded();
        let (urgent, urgent_items) = unbounded();
        let (input, disks) = (Arc::new(WaitingInput::default()), Arc::new(AtomicUsize::new(0)));
        let copied = Arc::new(CopyWire::default());
        let mut writer = Writer {
            copied: Arc::clone(&copied),
            wire,
            outbound: Outbound::new(vm, term, session),
            batch: PageBatch::new(),
            packing: Packing::default(),
            known: KnownPages::new(if without(Piece::Deltas) { 0 } else { MAX_KNOWN }),
            devices: DeviceStates::default(),
            open: Written::default(),
            body_bytes: 0,
            written: Box::new(written),
            input: Arc::clone(&input),
            input_due: None,
            disks: Arc::clone(&disks),
            changes: DiskBatch::new(),
            urgent: urgent_items,
            haste: Haste::default(),
        };
        std::thread::Builder::new().name("ud-outbox".into()).spawn(move || {
            crate::loops::prefer_this_thread();
            if let Err(error) = writer.run(&items) {
                tracing::debug!(%error, "the replication connection cannot be written");
            }
            // With the writer the connection ends. Its reader sees that and tells the engine.
        })?;
        Ok(Self { queue, urgent, input, disks, copied })
    }

    fn put(&self, item: Item) {
        // After an error the thread is gone; the reader has told the engine or is about to.
        let _ = self.queue.send(item);
    }

    /// Queues a message to a backup.
    pub fn to_backup(&self, message: &ToBackup) {
        let (kind, epoch, body) = message.encode();
        let item = Item::Message(kind, epoch, body);
        match message {
            ToBackup::Heartbeat(_) => drop(self.urgent.send(item)),
            _ => self.put(item),
        }
    }

    /// Queues a message to a primary.
    pub fn to_primary(&self, message: &ToPrimary) {
        let (kind, epoch, body) = message.encode();
        self.put(Item::Message(kind, epoch, body));
    }

    /// Queues pages of `epoch` (0: the first copy).
    pub fn part(&self, epoch: Epoch, part: Part) {
        self.put(Item::Part(epoch, part));
    }

    /// Queues the device state of `epoch`.
    pub fn device(&self, epoch: Epoch, state: Vec<u8>) {
        self.put(Item::Device(epoch, state));
    }

    /// Queues changes of the disks in `epoch` (0: the first copy).
    pub fn disks(&self, epoch: Epoch, changes: Vec<KeptChange>) {
        if !changes.is_empty() {
            self.disks.fetch_add(weight(&changes), Ordering::Relaxed);
            self.put(Item::Disks(epoch, changes));
        }
    }

    /// Bytes of disks that wait to be written.
    pub fn disks_waiting(&self) -> usize {
        self.disks.load(Ordering::Relaxed)
    }

    /// What the copy of the disks cost; the reader of the connection counts what comes back.
    #[must_use]
    pub fn copy_wire(&self) -> &Arc<CopyWire> {
        &self.copied
    }

    /// Queues console output of `epoch`, which begins at `offset` of the console's stream.
    pub fn console(&self, epoch: Epoch, offset: u64, bytes: &[u8]) {
        // The gate bounds what an epoch can hold to 2 MiB.
        let mut at = offset;
        for piece in bytes.chunks(MAX_BODY_LEN as usize / 2).chain(bytes.is_empty().then_some(bytes)) {
            let mut body = at.to_le_bytes().to_vec();
            body.extend_from_slice(piece);
            at += piece.len() as u64;
            self.put(Item::Console(epoch, body));
        }
    }

    /// Queues the end of `epoch`; what was sent of it is counted here.
    pub fn commit(&self, epoch: Epoch, commit: Commit) {
        self.put(Item::Commit(epoch, commit));
    }

    /// Queues a frame that was given to the guest's NIC number `nic`, to be told with others that come soon. When many
    /// wait already it is left out: to the guest at the backup it is then as if the network had lost it.
    pub fn input(&self, epoch: Epoch, nic: u8, frame: &[u8]) {
        if self.input.push(epoch, nic, frame) {
            self.put(Item::Input);
        }
    }

    /// Closes the connection behind everything queued.
    pub fn close(&self) {
        self.put(Item::Close);
    }
}

struct Writer {
    copied: Arc<CopyWire>,
    wire: Wire,
    outbound: Outbound,
    batch: PageBatch,
    packing: Packing,
    known: KnownPages,
    devices: DeviceStates,
    open: Written,
    body_bytes: u64,
    written: Box<dyn Fn(Written) + Send>,
    input: Arc<WaitingInput>,
    /// When it is told at the latest.
    input_due: Option<std::time::Instant>,
    disks: Arc<AtomicUsize>,
    changes: DiskBatch,
    urgent: Receiver<Item>,
    haste: Haste,
}

impl Writer {
    fn run(&mut self, items: &Receiver<Item>) -> std::io::Result<()> {
        loop {
            // What is queued behind a frame goes with it: a small checkpoint is one write.
            let item = match self.urgent.try_recv().or_else(|_| items.try_recv()) {
                Ok(item) => Ok(item),
                Err(_) => {
                    self.flush()?;
                    match self.wait(items) {
                        Some(item) => item,
                        None => {
                            self.tell_input()?;
                            continue;
                        }
                    }
                }
            };
            match item {
                Ok(Item::Close) | Err(_) => return self.tell_input(),
                Ok(item) => self.item(item)?,
            }
        }
    }

    /// The next item; none if input has waited long enough.
    fn wait(&self, items: &Receiver<Item>) -> Option<Result<Item, RecvError>> {
        let due = self.input_due.map_or_else(never, at);
        crossbeam_channel::select! {
            // Without an outbox left, what was queued is still written.
            recv(self.urgent) -> item => Some(item.or_else(|_| items.recv())),
            recv(items) -> item => Some(item),
            recv(due) -> _ => None,
        }
    }

    fn tell_input(&mut self) -> std::io::Result<()> {
        if self.input_due.take().is_some() {
            for (epoch, body) in self.input.take() {
                self.frame(Kind::Input, epoch, body.into())?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match &mut self.wire {
            Wire::One(sender) => sender.flush(),
            Wire::Several(_) => Ok(()),
        }
    }

    fn item(&mut self, item: Item) -> std::io::Result<()> {
        if !matches!(item, Item::Input) {
            // What an epoch was given is there before its end.
            self.tell_input()?;
        }
        if let Item::Part(epoch, _)
        | Item::Disks(epoch, _)
        | Item::Device(epoch, _)
        | Item::Commit(epoch, ..) = &item
        {
            self.haste.suit(*epoch);
        }
        match item {
            Item::Message(kind, epoch, body) => self.frame(kind, epoch, body.into()),
            Item::Part(epoch, part) => self.part(epoch, &part),
            Item::Device(epoch, state) => {
                let bodies = self.devices.pack(epoch, state);
                bodies.into_iter().try_for_each(|body| self.bulk(Kind::Device, epoch, body.into()))
            }
            Item::Disks(epoch, changes) => self.disks(epoch, &changes),
            Item::Console(epoch, body) => self.bulk(Kind::Console, epoch, body.into()),
            Item::Commit(epoch, commit) => self.commit(epoch, commit),
            Item::Input => {
                self.input_due.get_or_insert_with(|| std::time::Instant::now() + LINGER);
                Ok(())
            }
            Item::Close => Ok(()),
        }
    }

    fn part(&mut self, epoch: Epoch, part: &Part) -> std::io::Result<()> {
        let mut batch = std::mem::take(&mut self.batch);
        // Behind several paths nobody can say how long a frame took.
        let pack = if matches!(self.wire, Wire::One(_)) { part.pack } else { Pack::Always };
        let mut packs = pack == Pack::Always || self.packing.packs();
        let mut began = std::time::Instant::now();
        for (slot, data) in part.pages.iter().zip(part.buffer.bytes().as_chunks::<PAGE>().0) {
            let Some((block, page)) = *slot else { continue };
            if part.once {
                batch.push_whole(block, page, data, packs);
            } else {
                batch.push_changed(block, page, data, &mut self.known, packs);
            }
            if batch.is_full() {
                self.timed_batch((epoch, packs), &mut batch, began)?;
                packs = pack == Pack::Always || self.packing.packs();
                began = std::time::Instant::now();
            }
        }
        self.timed_batch((epoch, packs), &mut batch, began)?;
        self.batch = batch;
        Ok(())
    }

    /// Sends a batch that was begun at `began`; what it took tells whether packing pays, if it is a first copy's and all of it
    /// went whole.
    fn timed_batch(
        &mut self,
        (epoch, packed): (Epoch, bool),
        batch: &mut PageBatch,
        began: std::time::Instant,
    ) -> std::io::Result<()> {
        let (encoded, counts, body) = (began.elapsed(), batch.counts(), batch.len() as u64);
        self.batch(epoch, batch)?;
        if epoch == Epoch(0) && counts.deltas + counts.unchanged == 0 {
            let memory = (counts.pages - counts.zeros) * PAGE as u64;
            let (encoding, sending) = (micros(encoded), micros(began.elapsed() - encoded));
            self.packing.learn(Batch { packed, memory, body, encoding, sending });
        }
        Ok(())
    }

    fn disks(&mut self, epoch: Epoch, changes: &[KeptChange]) -> std::io::Result<()> {
        for KeptChange { disk, offset, what } in changes {
            let (disk, mut offset) = (*disk, *offset);
            match what {
                Kept::Data(bytes) => {
                    for bytes in bytes.chunks(MAX_DATA) {
                        self.change(epoch, Change { disk, offset, what: What::Data(bytes) })?;
                        offset += bytes.len() as u64;
                    }
                }
                &Kept::Zeroes(len) => self.change(epoch, Change { disk, offset, what: What::Zeroes(len) })?,
                &Kept::Discard(len) => {
                    self.change(epoch, Change { disk, offset, what: What::Discard(len) })?
                }
            }
        }
        if !self.changes.is_empty() {
            self.send_changes(epoch)?;
        }
        self.disks.fetch_sub(weight(changes), Ordering::Relaxed);
        Ok(())
    }

    fn change(&mut self, epoch: Epoch, change: Change<'_>) -> std::io::Result<()> {
        if !self.changes.push(change) {
            self.send_changes(epoch)?;
            let room = self.changes.push(change);
            assert!(room, "an empty batch takes any change");
        }
        Ok(())
    }

    fn send_changes(&mut self, epoch: Epoch) -> std::io::Result<()> {
        let body = self.changes.finish();
        self.bulk(Kind::Disk, epoch, body.into())
    }

    fn batch(&mut self, epoch: Epoch, batch: &mut PageBatch) -> std::io::Result<()> {
        self.begin(epoch);
        let counts = batch.counts();
        self.open.pages += counts.pages;
        self.open.deltas += counts.deltas;
        self.open.unchanged += counts.unchanged;
        if !batch.is_empty() {
            // What may have to go twice is not copied but given away.
            let body = match self.wire {
                Wire::One(_) => Cow::Borrowed(batch.finish()),
                Wire::Several(_) => Cow::Owned(batch.take()),
            };
            self.bulk(Kind::Pages, epoch, body)?;
        }
        batch.clear();
        Ok(())
    }

    fn begin(&mut self, epoch: Epoch) {
        if self.open.epoch != epoch {
            self.open = Written { epoch, ..Written::default() };
            self.body_bytes = 0;
        }
    }

    fn bulk(&mut self, kind: Kind, epoch: Epoch, body: Cow<'_, [u8]>) -> std::io::Result<()> {
        while let Ok(item) = self.urgent.try_recv() {
            self.item(item)?;
        }
        self.begin(epoch);
        self.open.frames += 1;
        self.open.wire_bytes += (body.len() + HEADER_LEN) as u64;
        self.body_bytes += body.len() as u64;
        self.frame(kind, epoch, body)
    }

    fn commit(&mut self, epoch: Epoch, commit: Commit) -> std::io::Result<()> {
        self.begin(epoch);
        let commit = Commit { frames: self.open.frames, bytes: self.body_bytes, ..commit };
        let (kind, epoch, body) = ToBackup::Commit(epoch, commit).encode();
        self.open.wire_bytes += (body.len() + HEADER_LEN) as u64;
        self.frame(kind, epoch, body.into())?;
        (self.written)(std::mem::take(&mut self.open));
        self.body_bytes = 0;
        Ok(())
    }

    fn frame(&mut self, kind: Kind, epoch: Epoch, body: Cow<'_, [u8]>) -> std::io::Result<()> {
        self.copied.count(kind, epoch, body.len());
        let header = self.outbound.seal(kind, epoch, &body);
        match &mut self.wire {
            Wire::One(sender) => sender.put(&header.encode(), &body),
            Wire::Several(bundle) => bundle.send(header, body.into_owned()),
        }
    }
}

fn weight(changes: &[KeptChange]) -> usize {
    changes.iter().map(KeptChange::weight).sum()
}
