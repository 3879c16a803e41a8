//! Owns the decision what to do with a journal after a crash: a labelled table over what a scan found.
//!
//! # What a crash leaves
//!
//! Records are numbered without gaps. A sync makes all records before it durable; between two syncs the storage
//! may lose, tear and reorder what was written. So the log after a crash is a whole beginning, then a tail of
//! which any part may be missing: valid records may stand *behind* a damaged one, and they count for nothing. The
//! whole beginning ends at the first place where the next number does not stand as a whole record. An epoch
//! counts if its commit stands in the whole beginning.
//!
//! # Torn tail or lost data
//!
//! Each record, head and mark says how far the log was durable when it was written ([`Header::synced`]). A record
//! that is missing though a record written later vouches for it was durable once: the storage lost it, and perhaps
//! an acknowledged epoch with it. Recovery then refuses, wherever the witness stands, behind the damage or in the
//! file of marks. Without a witness the damage is a torn tail, and is cut off.
//!
//! | damage | told apart? |
//! |---|---|
//! | in a record after which something was written in a later sync group | yes: refused |
//! | in an epoch whose way into the images began (a mark vouches for it first) | yes: refused |
//! | in an epoch that the images already hold | harmless if a later segment's head leads past it, else refused |
//! | in the group synced last, nothing written after it, not being applied | **no**: it looks like a torn tail |
//! | one of the two marks | yes: the other one is used, at the worst epochs are applied again |
//! | a sync that returned and wrote nothing | as rot of what it should have written |
//!
//! The line with **no** is closed from outside: who knows that an epoch was acknowledged (the primary, a stamp) passes
//! it as `required`, and a journal that ends before it is refused. A search behind the damage reads bytes that the
//! guest may have written; what it finds can only make recovery refuse, never make it take a record.

use super::chain::{Break, Chain, Disorder};
use super::record::{Header, RecordError};
use crate::ids::{Epoch, Term};

/// What was found where a mark or the head of a segment belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Found {
    /// Nothing, or something torn or rotten.
    Nothing,
    /// A whole one.
    Whole,
    /// One of another version.
    OtherVersion,
    /// One of another journal.
    Foreign,
}

impl Found {
    /// Every value.
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Whole, Self::OtherVersion, Self::Foreign];

    /// What a read record counts as. Of several places the highest counts.
    #[must_use]
    pub fn of<T>(read: &Result<T, RecordError>) -> Self {
        match read {
            Ok(_) => Self::Whole,
            Err(RecordError::Foreign { .. }) => Self::Foreign,
            Err(RecordError::Version { .. }) => Self::OtherVersion,
            Err(_) => Self::Nothing,
        }
    }
}

/// How the whole beginning of the log ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Behind a commit, or before the first record.
    Closed,
    /// Behind changes without their commit.
    Open,
    /// At a record that cannot come there though it is whole.
    Impossible(Disorder),
    /// At a whole record of this journal whose body makes no sense.
    Nonsense,
}

/// What a scan of the journal found: the inputs of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// The marks.
    pub marks: Found,
    /// The heads of the segments.
    pub heads: Found,
    /// How the whole beginning ends.
    pub end: End,
    /// Bytes of a record stand where the next one belongs, or records of this life stand behind.
    pub torn: bool,
    /// Something whole vouches for a needed record that is missing.
    pub lost: bool,
    /// Whole epochs are newer than what the images hold.
    pub news: bool,
    /// The newest whole epoch is older than one that is known to have been acknowledged.
    pub too_old: bool,
}

/// Why a journal is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Of another VM or session.
    #[error(
        "it belongs to another VM or session; give the right directory, or protect the VM anew to replace it"
    )]
    Foreign,
    /// Of another version.
    #[error("another version of Undying wrote it; recover with that version")]
    OtherVersion,
    /// Its creation was not finished; no epoch was ever committed to it.
    #[error("its creation was not finished, so it never held an epoch; create it anew")]
    NotBegun,
    /// Both marks are gone.
    #[error("its marks are damaged and nothing tells what the images hold; use the primary's copy")]
    MarksLost,
    /// The log is whole and impossible.
    #[error("its records are whole but out of order ({0:?}), a fault of the program; use the primary's copy")]
    Disorder(Disorder),
    /// A whole record that says nothing.
    #[error("a whole record makes no sense, a fault of the program; use the primary's copy")]
    Nonsense,
    /// The storage lost what was durable.
    #[error("records that were durable are missing or damaged; check the device, use the primary's copy")]
    Lost,
    /// An acknowledged epoch is missing.
    #[error("it ends before an epoch that was acknowledged; check the device, use the primary's copy")]
    TooOld,
}

/// What to do with the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Apply the epochs after the applied one up to the newest whole one, then begin a new life.
    Replay,
    /// The images are current: begin a new life.
    Nothing,
    /// Touch nothing, tell a person.
    Refuse(Refused),
}

/// A row: its label, when it applies, what follows.
type Row = (&'static str, fn(&Facts) -> bool, Verdict);

/// The table; the first row that applies decides.
///
/// Identity comes before damage: of a foreign file nothing else can be judged. Disorder comes before loss: it is
/// the stronger statement. A tail that is cut off has its own rows so that a log can tell what was there.
pub const TABLE: [Row; 18] = {
    use Verdict::{Nothing, Refuse, Replay};
    [
        ("foreign marks", |f| f.marks == Found::Foreign, Refuse(Refused::Foreign)),
        ("foreign segment", |f| f.heads == Found::Foreign, Refuse(Refused::Foreign)),
        ("marks of another version", |f| f.marks == Found::OtherVersion, Refuse(Refused::OtherVersion)),
        ("segment of another version", |f| f.heads == Found::OtherVersion, Refuse(Refused::OtherVersion)),
        (
            "never begun",
            |f| f.marks == Found::Nothing && f.heads == Found::Nothing,
            Refuse(Refused::NotBegun),
        ),
        ("marks lost", |f| f.marks == Found::Nothing, Refuse(Refused::MarksLost)),
        ("term fell", |f| is(f, Disorder::TermFell), Refuse(Refused::Disorder(Disorder::TermFell))),
        ("epoch fell", |f| is(f, Disorder::EpochFell), Refuse(Refused::Disorder(Disorder::EpochFell))),
        ("miscounted", |f| is(f, Disorder::Miscounted), Refuse(Refused::Disorder(Disorder::Miscounted))),
        ("nonsense", |f| f.end == End::Nonsense, Refuse(Refused::Nonsense)),
        ("durable records lost", |f| f.lost, Refuse(Refused::Lost)),
        ("acknowledged epoch lost", |f| f.too_old, Refuse(Refused::TooOld)),
        ("epochs, then a torn tail", |f| f.news && f.torn, Replay),
        ("epochs, then one without commit", |f| f.news && f.end == End::Open, Replay),
        ("epochs", |f| f.news, Replay),
        ("only a torn tail", |f| f.torn, Nothing),
        ("only an epoch without commit", |f| f.end == End::Open, Nothing),
        ("nothing new", |_| true, Nothing),
    ]
};

fn is(facts: &Facts, disorder: Disorder) -> bool {
    facts.end == End::Impossible(disorder)
}

/// The row that decides: its label and what follows.
#[must_use]
pub fn decide(facts: &Facts) -> (&'static str, Verdict) {
    let row = TABLE.iter().find(|(_, applies, _)| applies(facts));
    row.map_or(("nothing new", Verdict::Nothing), |&(label, _, verdict)| (label, verdict))
}

/// Collects what a scan finds and derives the table's facts.
///
/// The scan calls [`Scan::mark`] and [`Scan::head`] for every place, begins the walk with [`Scan::begin`], gives
/// each record in turn to [`Scan::record`] until it says stop, and every header that it finds behind that to
/// [`Scan::witness`].
#[derive(Debug, Clone)]
pub struct Scan {
    marks: Found,
    heads: Found,
    life: u32,
    mark: Option<Header>,
    applied: Epoch,
    chain: Option<Chain>,
    end: Option<End>,
    torn: bool,
    synced: u64,
    later_life: bool,
}

impl Default for Scan {
    fn default() -> Self {
        Self::new()
    }
}

impl Scan {
    /// Nothing was found yet.
    #[must_use]
    pub fn new() -> Self {
        let (marks, heads) = (Found::Nothing, Found::Nothing);
        let (mark, chain, end, applied) = (None, None, None, Epoch(0));
        Self { marks, heads, life: 0, mark, applied, chain, end, torn: false, synced: 0, later_life: false }
    }

    /// Takes what stands at a mark's place.
    pub fn mark(&mut self, read: &Result<Header, RecordError>) {
        self.marks = self.marks.max(Found::of(read));
        let Ok(mark) = read else { return };
        let age = |mark: &Header| (mark.life, mark.applied, mark.synced);
        let newest = |held: Header| age(mark) > age(&held);
        if self.mark.is_none_or(newest) {
            self.mark = Some(*mark);
        }
        self.attest(mark);
    }

    /// Takes what stands at a segment's head.
    pub fn head(&mut self, read: &Result<Header, RecordError>) {
        self.heads = self.heads.max(Found::of(read));
        if let Ok(head) = read {
            self.attest(head);
        }
    }

    fn attest(&mut self, header: &Header) {
        if header.life > self.life {
            (self.life, self.synced) = (header.life, 0);
        }
        if header.life == self.life {
            self.synced = self.synced.max(header.synced);
        }
        self.applied = self.applied.max(header.applied);
    }

    /// The newest life; records of earlier ones are in the images.
    #[must_use]
    pub fn life(&self) -> u32 {
        self.life
    }

    /// Every epoch up to this one is in the images.
    #[must_use]
    pub fn applied(&self) -> Epoch {
        self.applied
    }

    /// Whether the walk may begin in the segment with this head: nothing before it is needed. The walk begins in
    /// the latest such segment.
    #[must_use]
    pub fn may_begin(&self, head: &Header) -> bool {
        head.life == self.life && head.epoch <= self.applied
    }

    /// Begins the walk behind this head.
    pub fn begin(&mut self, head: &Header) {
        self.chain = Some(Chain::new(self.life, head.seq, head.term, head.epoch, self.applied));
    }

    /// Takes what stands where the next record belongs; whether the walk goes on behind it.
    pub fn record(&mut self, read: Result<(&Header, &[u8]), RecordError>) -> bool {
        let Some(chain) = &mut self.chain else { return false };
        match read {
            Ok((header, body)) => match chain.accept(header, body) {
                Ok(_) => {
                    self.synced = self.synced.max(header.synced);
                    return true;
                }
                Err(Break::NotNext) => {}
                Err(Break::Record(_)) => self.end = Some(End::Nonsense),
                Err(Break::Disorder(disorder)) => self.end = Some(End::Impossible(disorder)),
            },
            Err(RecordError::Magic) => {}
            Err(_) => self.torn = true,
        }
        false
    }

    /// Takes a header that stands behind the end of the walk. Its body may be damaged: what the header says was
    /// true when it was written.
    pub fn witness(&mut self, header: &Header) {
        if header.life == self.life && header.seq >= self.next_seq() {
            self.torn = true;
            self.synced = self.synced.max(header.synced);
        }
        self.later_life |= header.life > self.life;
    }

    /// Number of the first record that the walk did not find.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.chain.as_ref().map_or(0, Chain::seq)
    }

    /// Number of the first record that is neither found nor known to be in the images.
    #[must_use]
    pub fn after(&self) -> u64 {
        let needed_from = self.mark.filter(|mark| mark.life == self.life).map_or(0, |mark| mark.seq);
        self.next_seq().max(needed_from)
    }

    /// The newest term.
    #[must_use]
    pub fn term(&self) -> Term {
        let marked = self.mark.map_or(Term(0), |mark| mark.term);
        self.chain.as_ref().map_or(marked, |chain| chain.term().max(marked))
    }

    /// The walk's place, if one began.
    #[must_use]
    pub fn chain(&self) -> Option<&Chain> {
        self.chain.as_ref()
    }

    /// The newest whole epoch.
    #[must_use]
    pub fn committed(&self) -> Epoch {
        self.chain.as_ref().map_or(self.applied, Chain::committed)
    }

    /// The table's inputs. `required` is an epoch that is known to have been acknowledged, 0 if none is.
    #[must_use]
    pub fn facts(&self, required: Epoch) -> Facts {
        let lost = self.later_life || self.synced > self.after();
        let open = self.chain.as_ref().is_some_and(Chain::is_open);
        let end = self.end.unwrap_or(if open { End::Open } else { End::Closed });
        let news = self.committed() > self.applied;
        let too_old = self.committed() < required;
        Facts { marks: self.marks, heads: self.heads, end, torn: self.torn, lost, news, too_old }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const ENDS: [End; 6] = [
        End::Closed,
        End::Open,
        End::Nonsense,
        End::Impossible(Disorder::TermFell),
        End::Impossible(Disorder::EpochFell),
        End::Impossible(Disorder::Miscounted),
    ];

    fn every() -> Vec<Facts> {
        let mut all = Vec::new();
        for marks in Found::ALL {
            for heads in Found::ALL {
                for end in ENDS {
                    for bits in 0..16 {
                        let [torn, lost, news, too_old] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                        all.push(Facts { marks, heads, end, torn, lost, news, too_old });
                    }
                }
            }
        }
        all
    }

    /// A second, independent statement of what must hold, judged on every combination.
    #[test]
    fn every_combination_is_refused_exactly_if_something_is_wrong() {
        for facts in every() {
            let (label, verdict) = decide(&facts);
            let strange = [facts.marks, facts.heads].iter().any(|&found| found > Found::Whole);
            let marked = facts.marks == Found::Whole;
            let possible = matches!(facts.end, End::Closed | End::Open);
            let sound = !strange && marked && possible && !facts.lost && !facts.too_old;
            match verdict {
                Verdict::Refuse(_) => assert!(!sound, "{label}: {facts:?}"),
                Verdict::Replay => assert!(sound && facts.news, "{label}: {facts:?}"),
                Verdict::Nothing => assert!(sound && !facts.news, "{label}: {facts:?}"),
            }
        }
    }

    #[test]
    fn every_row_decides_some_combination_and_labels_are_unique() {
        for (at, (label, ..)) in TABLE.iter().enumerate() {
            assert!(every().iter().any(|facts| decide(facts).0 == *label), "{label} never decides");
            assert!(TABLE[..at].iter().all(|(other, ..)| other != label), "{label} stands twice");
        }
    }

    #[test]
    fn loss_is_named_as_loss_whatever_else_a_whole_journal_shows() {
        for facts in every() {
            let whole = facts.marks == Found::Whole && facts.heads <= Found::Whole;
            if whole && facts.lost && matches!(facts.end, End::Closed | End::Open) {
                assert_eq!(decide(&facts).1, Verdict::Refuse(Refused::Lost), "{facts:?}");
            }
        }
    }
}
