//! Owns the reading back of committed epochs, one change at a time and checked again.

use super::error::JournalError;
use super::layout::{BLOCK, HEADER_LEN_U64, Layout, behind};
use super::scan::{Beginning, Firsts, Place, read_record};
use super::storage::Storage;
use protocol::journal::{Break, Chain, Header, Identity, Link, RecordError};
use protocol::{Change, Epoch};
use std::sync::Arc;

/// What comes next of the committed epochs.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A change of this epoch.
    Change(Epoch, Change<'a>),
    /// The epoch ends.
    Commit(Epoch),
}

/// Reads committed epochs that are not in the images yet. Holds one record in memory, so that it needs no more
/// than 1 MiB however long an epoch is. Reads on beside the journal, which keeps the place of these epochs until
/// they are marked as applied.
#[derive(Debug)]
pub struct Replay<S> {
    storage: Arc<S>,
    layout: Layout,
    identity: Identity,
    place: Place,
    chain: Chain,
    firsts: Firsts,
    applied: Epoch,
    until: Epoch,
    body: Vec<u8>,
}

impl<S: Storage> Replay<S> {
    /// Reads from `begin` the epochs after `applied` up to `until`.
    pub(super) fn new(
        storage: Arc<S>,
        (layout, identity): (Layout, Identity),
        Beginning { place, chain }: Beginning,
        firsts: Firsts,
        (applied, until): (Epoch, Epoch),
    ) -> Self {
        Self { storage, layout, identity, place, chain, firsts, applied, until, body: Vec::new() }
    }

    /// The newest epoch that it leads to.
    #[must_use]
    pub fn until(&self) -> Epoch {
        self.until
    }

    /// The next change or end of an epoch; `None` when all epochs were read.
    ///
    /// # Errors
    /// If the storage fails, or a record that was whole is so no more.
    pub fn step(&mut self) -> Result<Option<Step<'_>>, JournalError> {
        let header = loop {
            if self.chain.committed() >= self.until {
                return Ok(None);
            }
            let header = self.read()?;
            if header.epoch > self.applied {
                break header;
            }
            self.accept(&header)?;
        };
        let epoch = header.epoch;
        Ok(Some(match self.accept(&header)? {
            Link::Change(change) => Step::Change(epoch, change),
            Link::Commit(epoch) => Step::Commit(epoch),
        }))
    }

    fn read(&mut self) -> Result<Header, JournalError> {
        if self.firsts.get(&(self.place.segment + 1)) == Some(&self.chain.seq()) {
            self.place = Place { segment: self.place.segment + 1, at: BLOCK };
        }
        let (file, len) = (self.layout.file(self.place.segment), self.layout.segment_len());
        let read = read_record(&*self.storage, &file, self.place.at, len, self.identity, &mut self.body)?;
        read.map_err(|why| self.damaged(Some(why)))
    }

    fn accept(&mut self, header: &Header) -> Result<Link<'_>, JournalError> {
        let here = self.place;
        self.place.at = behind(header.kind, here.at + HEADER_LEN_U64 + u64::from(header.len));
        self.chain.accept(header, &self.body).map_err(|broken| JournalError::Damaged {
            file: self.storage.describe(&self.layout.file(here.segment)),
            at: here.at,
            why: if let Break::Record(why) = broken { Some(why) } else { None },
        })
    }

    fn damaged(&self, why: Option<RecordError>) -> JournalError {
        let file = self.storage.describe(&self.layout.file(self.place.segment));
        JournalError::Damaged { file, at: self.place.at, why }
    }
}
