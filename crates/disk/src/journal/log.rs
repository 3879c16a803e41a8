//! Owns the writing of the log: appending, sealing, syncing, marking, and the ring of segments.

use super::error::JournalError;
use super::layout::{BLOCK, COMMIT_SIZE, HEADER_LEN_U64, Layout, MARK_SLOTS, MARKS, behind, failed};
use super::replay::Replay;
use super::scan::{Beginning, Firsts, Place};
use super::storage::Storage;
use protocol::journal::{Chain, Header, Identity, Kind};
use protocol::{Change, Epoch, Term, What};
use std::collections::VecDeque;
use std::sync::Arc;

/// What a mark says.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) life: u32,
    pub(super) term: Term,
    pub(super) applied: Epoch,
    /// Number of the first record that is still needed.
    pub(super) floor: u64,
    /// Every record below is durable.
    pub(super) synced: u64,
}

/// A segment that holds something needed, or is being written.
#[derive(Debug)]
struct Segment {
    number: u64,
    first_seq: u64,
    /// The highest epoch with records in it.
    newest: Epoch,
}

/// A sealed epoch that is not known to be in the images.
#[derive(Debug)]
struct Waiting {
    epoch: Epoch,
    begin: Beginning,
    /// Number of the record behind its commit.
    end_seq: u64,
}

/// A journal that is being written. One thread writes it; [`Replay`]s read beside it.
#[derive(Debug)]
pub struct Journal<S> {
    storage: Arc<S>,
    layout: Layout,
    identity: Identity,
    mark: Mark,
    mark_slot: u64,
    /// The records written so far, by the rules by which they will be read.
    chain: Chain,
    segments: VecDeque<Segment>,
    next_segment: u64,
    at: u64,
    waiting: VecDeque<Waiting>,
    open: Option<Beginning>,
    durable: Epoch,
    unsynced: Vec<String>,
    failed: bool,
}

impl<S: Storage> Journal<S> {
    /// Begins a life: nothing older counts once the mark is durable.
    pub(super) fn begin(
        storage: Arc<S>,
        (layout, identity): (Layout, Identity),
        mark: Mark,
        mark_slot: u64,
        next_segment: u64,
    ) -> Result<Self, JournalError> {
        let chain = Chain::new(mark.life, mark.floor, mark.term, mark.applied, mark.applied);
        let mut journal = Self {
            storage,
            layout,
            identity,
            mark,
            mark_slot,
            chain,
            segments: VecDeque::new(),
            next_segment,
            at: 0,
            waiting: VecDeque::new(),
            open: None,
            durable: mark.applied,
            unsynced: Vec::new(),
            failed: false,
        };
        journal.write_mark(mark, mark_slot)?;
        Ok(journal)
    }

    /// Writes changes of an epoch behind those that it has. All of them or, if that fails with
    /// [`JournalError::Full`], none; after other errors the journal takes nothing more. Nothing is durable yet.
    ///
    /// # Errors
    /// If there is no room, the epoch cannot come now, a range is impossible or the storage fails.
    pub fn append(&mut self, term: Term, epoch: Epoch, changes: &[Change<'_>]) -> Result<(), JournalError> {
        self.check(term, epoch)?;
        let pieces = self.pieces(epoch, changes)?;
        self.check_room(epoch, &pieces)?;
        let mut buffer = Buffer::default();
        for piece in &pieces {
            let mut body = Vec::with_capacity(piece.body_len());
            piece.encode(&mut body);
            self.record(Kind::Change, term, epoch, &body, &mut buffer)?;
        }
        self.flush(&mut buffer)
    }

    /// Writes the epoch's commit: all its changes were appended. It counts once [`Journal::sync`] returned. An
    /// epoch without changes may be sealed too.
    ///
    /// # Errors
    /// If the epoch cannot come now, there is no room or the storage fails.
    pub fn seal(&mut self, term: Term, epoch: Epoch) -> Result<(), JournalError> {
        self.check(term, epoch)?;
        self.check_room(epoch, &[])?;
        let body = self.chain.totals().encode();
        let mut buffer = Buffer::default();
        self.record(Kind::Commit, term, epoch, &body, &mut buffer)?;
        self.flush(&mut buffer)?;
        let begin = self.open.take().expect("a record of the epoch was written");
        self.waiting.push_back(Waiting { epoch, begin, end_seq: self.chain.seq() });
        Ok(())
    }

    /// Makes all sealed epochs durable, however many, and returns the newest: up to it epochs may be acknowledged.
    ///
    /// # Errors
    /// If a sync fails. What is durable is then unknown, and the journal takes nothing more.
    pub fn sync(&mut self) -> Result<Epoch, JournalError> {
        self.check_alive()?;
        for name in std::mem::take(&mut self.unsynced) {
            let synced = self.storage.sync(&name);
            self.or_fail("sync", &name, synced)?;
        }
        self.mark.synced = self.chain.seq();
        self.durable = self.chain.committed();
        Ok(self.durable)
    }

    /// Seals an epoch and syncs: when it returns, the epoch may be acknowledged.
    ///
    /// # Errors
    /// As [`Journal::seal`] and [`Journal::sync`].
    pub fn commit(&mut self, term: Term, epoch: Epoch) -> Result<(), JournalError> {
        self.seal(term, epoch)?;
        let durable = self.sync()?;
        assert!(durable == epoch, "epoch {epoch} was sealed last, {durable} is durable");
        Ok(())
    }

    /// Takes note that every epoch up to this one is in the images, and they are synced; frees its place.
    ///
    /// # Errors
    /// If the epoch is not durable here or the storage fails.
    pub fn mark_applied(&mut self, epoch: Epoch) -> Result<(), JournalError> {
        self.check_alive()?;
        if epoch > self.durable {
            return Err(JournalError::NotDurable { epoch, durable: self.durable });
        }
        let count = self.waiting.iter().take_while(|waiting| waiting.epoch <= epoch).count();
        let Some(last) = count.checked_sub(1).and_then(|last| self.waiting.get(last)) else { return Ok(()) };
        let mark = Mark { applied: last.epoch, floor: last.end_seq, term: self.chain.term(), ..self.mark };
        self.write_mark(mark, (self.mark_slot + 1) % MARK_SLOTS)?;
        self.waiting.drain(..count);
        while self.segments.len() > 1 && self.segments[0].newest <= self.mark.applied {
            self.segments.pop_front();
        }
        Ok(())
    }

    /// The durable epochs that are not marked as applied, to be read; `None` if there are none.
    ///
    /// Before it returns, a mark vouches for them: should one of them rot while the images are half changed, no
    /// recovery takes the journal for one that ends before it.
    ///
    /// # Errors
    /// If the mark cannot be written.
    pub fn replay(&mut self) -> Result<Option<Replay<S>>, JournalError> {
        self.check_alive()?;
        let Some(first) = self.waiting.front().filter(|waiting| waiting.epoch <= self.durable) else {
            return Ok(None);
        };
        let begin = first.begin.clone();
        self.write_mark(self.mark, (self.mark_slot + 1) % MARK_SLOTS)?;
        let firsts: Firsts = self.segments.iter().map(|s| (s.number, s.first_seq)).collect();
        let journal = (self.layout, self.identity);
        let epochs = (self.mark.applied, self.durable);
        Ok(Some(Replay::new(Arc::clone(&self.storage), journal, begin, firsts, epochs)))
    }

    /// The newest durable epoch.
    #[must_use]
    pub fn durable(&self) -> Epoch {
        self.durable
    }

    /// The newest epoch marked as applied.
    #[must_use]
    pub fn applied(&self) -> Epoch {
        self.mark.applied
    }

    /// Bytes of the segments that are in use, to slow a primary down before the journal is full.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.segments.len() as u64 * self.layout.segment_len()
    }

    /// Number and size of the segments.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    fn check_alive(&self) -> Result<(), JournalError> {
        if self.failed { Err(JournalError::Failed) } else { Ok(()) }
    }

    fn check(&self, term: Term, epoch: Epoch) -> Result<(), JournalError> {
        self.check_alive()?;
        let newest = self.chain.newest();
        if epoch <= self.chain.committed() || self.chain.may_follow(term, epoch).is_err() {
            return Err(JournalError::Order { epoch, newest });
        }
        Ok(())
    }

    /// The changes, with data cut to what a record holds.
    fn pieces<'a>(&self, epoch: Epoch, changes: &[Change<'a>]) -> Result<Vec<Change<'a>>, JournalError> {
        let mut pieces = Vec::with_capacity(changes.len());
        for change in changes {
            let (disk, offset, len) = (change.disk, change.offset, change.what.len());
            let end = offset.checked_add(len).and_then(|end| i64::try_from(end).ok());
            if end.is_none() || change.what.is_empty() {
                return Err(JournalError::Range { epoch, disk, offset, len });
            }
            let What::Data(data) = change.what else {
                pieces.push(*change);
                continue;
            };
            let max = self.layout.max_data();
            for (number, part) in data.chunks(max).enumerate() {
                let offset = offset + (number * max) as u64;
                pieces.push(Change { disk, offset, what: What::Data(part) });
            }
        }
        Ok(pieces)
    }

    /// Checks that the pieces and the commit behind them fit the current segment and the free ones.
    fn check_room(&self, epoch: Epoch, pieces: &[Change<'_>]) -> Result<(), JournalError> {
        let mut free = self.layout.segments() as usize - self.segments.len();
        let mut at = if self.segments.is_empty() { self.layout.segment_len() } else { self.at };
        let changes = pieces.iter().map(|piece| HEADER_LEN_U64 + piece.body_len() as u64);
        for size in changes.chain([COMMIT_SIZE]) {
            if !self.layout.fits(at, size) {
                let waiting = self.waiting.len();
                let full = JournalError::Full { epoch, limit: self.layout.size(), waiting };
                free = free.checked_sub(1).ok_or(full)?;
                at = BLOCK;
            }
            at = behind(Kind::Change, at + size);
        }
        Ok(())
    }

    fn header(&self, kind: Kind, (term, epoch): (Term, Epoch), seq: u64, mark: Mark) -> Header {
        let Mark { synced, applied, life, .. } = mark;
        let identity = self.identity;
        Header { kind, identity, term, epoch, seq, synced, applied, life, len: 0, body_sum: 0 }
    }

    /// Adds a record to the buffer; one that does not fit the segment begins the next one. There is room.
    fn record(
        &mut self,
        kind: Kind,
        term: Term,
        epoch: Epoch,
        body: &[u8],
        buffer: &mut Buffer,
    ) -> Result<(), JournalError> {
        let size = HEADER_LEN_U64 + body.len() as u64;
        if self.segments.is_empty() || !self.layout.fits(self.at, size) {
            self.flush(buffer)?;
            self.next_segment(term, buffer);
        }
        let segment = self.segments.back_mut().expect("a segment was begun");
        segment.newest = epoch;
        let place = Place { segment: segment.number, at: self.at };
        if self.open.is_none() {
            self.open = Some(Beginning { place, chain: self.chain.clone() });
        }
        let header = self.header(kind, (term, epoch), self.chain.seq(), self.mark).of_body(body);
        let accepted = self.chain.accept(&header, body);
        assert!(accepted.is_ok(), "a record was written that could not be read: {accepted:?}");
        self.at = behind(kind, self.at + size);
        buffer.add(place.at, &[&header.encode(), body], self.at);
        Ok(())
    }

    /// Begins the next segment of the ring with its head.
    fn next_segment(&mut self, term: Term, buffer: &mut Buffer) {
        let in_use = self.segments.len();
        assert!(in_use < self.layout.segments() as usize, "the room was checked");
        let number = self.next_segment;
        let (first_seq, newest) = (self.chain.seq(), self.chain.newest());
        let body = number.to_le_bytes();
        let head = self.header(Kind::Head, (term, newest), first_seq, self.mark).of_body(&body);
        buffer.add(0, &[&head.encode(), &body], BLOCK);
        self.segments.push_back(Segment { number, first_seq, newest });
        self.next_segment += 1;
        self.at = BLOCK;
    }

    /// Writes the buffer, which belongs to the newest segment.
    fn flush(&mut self, buffer: &mut Buffer) -> Result<(), JournalError> {
        let Some(segment) = self.segments.back().filter(|_| !buffer.bytes.is_empty()) else { return Ok(()) };
        let name = self.layout.file(segment.number);
        let written = self.storage.write_at(&name, buffer.from, &buffer.bytes);
        self.or_fail("write to", &name, written)?;
        buffer.bytes.clear();
        if !self.unsynced.contains(&name) {
            self.unsynced.push(name);
        }
        Ok(())
    }

    fn write_mark(&mut self, mark: Mark, slot: u64) -> Result<(), JournalError> {
        let header = self.header(Kind::Applied, (mark.term, mark.applied), mark.floor, mark);
        let shape = self.layout.shape().encode();
        let mut block = header.of_body(&shape).encode().to_vec();
        block.extend(shape);
        block.resize(BLOCK as usize, 0);
        let written = self.storage.write_at(MARKS, slot * BLOCK, &block);
        self.or_fail("write to", MARKS, written)?;
        let synced = self.storage.sync(MARKS);
        self.or_fail("sync", MARKS, synced)?;
        (self.mark, self.mark_slot) = (mark, slot);
        Ok(())
    }

    fn or_fail(
        &mut self,
        action: &'static str,
        name: &str,
        result: std::io::Result<()>,
    ) -> Result<(), JournalError> {
        result.map_err(|source| {
            self.failed = true;
            failed(&*self.storage, action, name, source)
        })
    }
}

/// Bytes that go to one place of a segment in one write.
#[derive(Debug, Default)]
struct Buffer {
    from: u64,
    bytes: Vec<u8>,
}

impl Buffer {
    /// Adds parts that begin at `at`, and zeroes up to `until`.
    fn add(&mut self, at: u64, parts: &[&[u8]], until: u64) {
        if self.bytes.is_empty() {
            self.from = at;
        }
        assert!(self.from + self.bytes.len() as u64 == at, "the buffer is one piece");
        parts.iter().for_each(|part| self.bytes.extend(*part));
        self.bytes.resize((until - self.from) as usize, 0);
    }
}
