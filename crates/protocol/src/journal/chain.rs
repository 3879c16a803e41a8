//! Owns the walk along the records of a journal: which record may follow which, and when an epoch is whole.
//!
//! Writing, recovery and replay all lead records through a [`Chain`]; it holds the totals that a commit must
//! match. Epochs that the images already hold are walked over without being counted: the first of them may have
//! begun in a segment that is reused by now.

use super::body::Totals;
use super::record::{Header, Kind, RecordError};
use crate::change::Change;
use crate::ids::{Epoch, Term};

/// A chain of whole records that no crash can leave: a fault of the program that wrote it, or foreign records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disorder {
    /// A record of a lower term after one of a higher term.
    TermFell,
    /// A record of an epoch that is not above the last committed one, or while another one is open.
    EpochFell,
    /// A commit that does not match the changes before it.
    Miscounted,
}

/// What a record is in the chain.
#[derive(Debug, PartialEq, Eq)]
pub enum Link<'a> {
    /// A change of the open epoch.
    Change(Change<'a>),
    /// The epoch is whole.
    Commit(Epoch),
}

/// Why a record is not the chain's next one.
#[derive(Debug, PartialEq, Eq)]
pub enum Break {
    /// It is of an earlier use of the place, of a later one, or not of the log at all.
    NotNext,
    /// Its body makes no sense.
    Record(RecordError),
    /// It is the next one, and cannot be.
    Disorder(Disorder),
}

/// The walk's place: what was seen, what may come.
#[derive(Debug, Clone)]
pub struct Chain {
    life: u32,
    seq: u64,
    applied: Epoch,
    term: Term,
    newest: Epoch,
    open: Option<Totals>,
    committed: Epoch,
}

impl Chain {
    /// Begins a walk at the record with number `seq`. The images hold every epoch up to `applied`; `newest` is the
    /// highest epoch with records before this one.
    #[must_use]
    pub fn new(life: u32, seq: u64, term: Term, newest: Epoch, applied: Epoch) -> Self {
        Self { life, seq, applied, term, newest, open: None, committed: applied }
    }

    /// Number of the record that comes next.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The newest whole epoch: of the chain, or of the images if that is newer.
    #[must_use]
    pub fn committed(&self) -> Epoch {
        self.committed
    }

    /// The highest epoch with records.
    #[must_use]
    pub fn newest(&self) -> Epoch {
        self.newest
    }

    /// The term of the last record.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term
    }

    /// Whether changes without a commit stand at the end.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// What a commit of the open epoch must say; nothing was changed if none is open.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.open.unwrap_or_default()
    }

    /// Whether a record of this term and epoch may come next.
    ///
    /// # Errors
    /// What would be out of order.
    pub fn may_follow(&self, term: Term, epoch: Epoch) -> Result<(), Disorder> {
        if term < self.term {
            return Err(Disorder::TermFell);
        }
        let follows = match self.open {
            Some(_) => epoch == self.newest,
            None if epoch <= self.applied => epoch >= self.newest,
            None => epoch > self.newest.max(self.committed),
        };
        if follows { Ok(()) } else { Err(Disorder::EpochFell) }
    }

    /// Takes the next record. Its header and body were checked.
    ///
    /// # Errors
    /// If it is not the next record; the chain is as before.
    pub fn accept<'a>(&mut self, header: &Header, body: &'a [u8]) -> Result<Link<'a>, Break> {
        let of_log = matches!(header.kind, Kind::Change | Kind::Commit);
        if !of_log || header.life != self.life || header.seq != self.seq {
            return Err(Break::NotNext);
        }
        self.may_follow(header.term, header.epoch).map_err(Break::Disorder)?;
        let link = if header.kind == Kind::Change {
            let change = Change::decode(body).map_err(Break::Record)?;
            let mut totals = self.totals();
            totals.add(header);
            self.open = Some(totals);
            Link::Change(change)
        } else {
            let said = Totals::decode(body).map_err(Break::Record)?;
            if header.epoch > self.applied && said != self.totals() {
                return Err(Break::Disorder(Disorder::Miscounted));
            }
            self.open = None;
            self.committed = self.committed.max(header.epoch);
            Link::Commit(header.epoch)
        };
        self.seq = self.seq.saturating_add(1);
        self.term = header.term;
        self.newest = header.epoch;
        Ok(link)
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::identity;
    use super::*;
    use crate::change::What;
    use alloc::vec::Vec;

    fn record(kind: Kind, seq: u64, term: u64, epoch: u64, body: &[u8]) -> Header {
        let (term, epoch, applied) = (Term(term), Epoch(epoch), Epoch(0));
        let synced = 0;
        Header { kind, identity: identity(), term, epoch, seq, synced, applied, life: 1, len: 0, body_sum: 0 }
            .of_body(body)
    }

    fn body() -> Vec<u8> {
        let mut body = Vec::new();
        Change { disk: 0, offset: 0, what: What::Zeroes(512) }.encode(&mut body);
        body
    }

    fn change(chain: &mut Chain, term: u64, epoch: u64) -> Result<(), Break> {
        let body = body();
        chain.accept(&record(Kind::Change, chain.seq(), term, epoch, &body), &body).map(|_| ())
    }

    fn commit(chain: &mut Chain, term: u64, epoch: u64) -> Result<(), Break> {
        let body = chain.totals().encode();
        chain.accept(&record(Kind::Commit, chain.seq(), term, epoch, &body), &body).map(|_| ())
    }

    fn begun() -> Chain {
        Chain::new(1, 10, Term(1), Epoch(4), Epoch(4))
    }

    #[test]
    fn an_epoch_counts_from_its_commit_on() {
        let mut chain = begun();
        change(&mut chain, 1, 5).unwrap();
        assert_eq!((chain.committed(), chain.is_open()), (Epoch(4), true));
        commit(&mut chain, 1, 5).unwrap();
        assert_eq!((chain.committed(), chain.is_open(), chain.seq()), (Epoch(5), false, 12));
        commit(&mut chain, 2, 7).unwrap();
        assert_eq!(chain.committed(), Epoch(7), "an epoch without changes");
    }

    #[test]
    fn what_no_crash_leaves_is_named() {
        let mut chain = begun();
        change(&mut chain, 2, 5).unwrap();
        assert_eq!(change(&mut chain, 1, 5), Err(Break::Disorder(Disorder::TermFell)));
        assert_eq!(change(&mut chain, 2, 6), Err(Break::Disorder(Disorder::EpochFell)), "5 is open");
        let wrong = Totals { changes: 2, ..chain.totals() }.encode();
        let miscounted = chain.accept(&record(Kind::Commit, 11, 2, 5, &wrong), &wrong).map(|_| ());
        assert_eq!(miscounted, Err(Break::Disorder(Disorder::Miscounted)));
        commit(&mut chain, 2, 5).unwrap();
        assert_eq!(change(&mut chain, 2, 5), Err(Break::Disorder(Disorder::EpochFell)));
    }

    #[test]
    fn records_of_another_use_of_the_place_end_the_chain() {
        let mut chain = begun();
        let body = body();
        for wrong in [9, 11] {
            let got = chain.accept(&record(Kind::Change, wrong, 1, 5, &body), &body).map(|_| ());
            assert_eq!(got, Err(Break::NotNext));
        }
        let other_life = Header { life: 2, ..record(Kind::Change, 10, 1, 5, &body) };
        assert_eq!(chain.accept(&other_life, &body), Err(Break::NotNext));
        let mark = record(Kind::Applied, 10, 1, 5, &[]);
        assert_eq!(chain.accept(&mark, &[]), Err(Break::NotNext));
    }

    #[test]
    fn an_applied_epoch_may_have_begun_before_the_walk() {
        let mut chain = begun();
        change(&mut chain, 1, 4).unwrap();
        let totals = Totals { changes: 9, bytes: 9, digest: 9 }.encode();
        chain.accept(&record(Kind::Commit, 11, 1, 4, &totals), &totals).unwrap();
        change(&mut chain, 1, 5).unwrap();
        commit(&mut chain, 1, 5).unwrap();
        assert_eq!(chain.committed(), Epoch(5));
    }
}
