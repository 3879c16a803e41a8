//! Owns the model arbiter: a row of records, each written once by test-and-set.

use protocol::{Claim, HostName, Term, TermRecord};

/// What a claim finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// The record that stands for the term, or the newest if that is later.
    Record(TermRecord),
    /// The term before it was never granted.
    Gap,
}

#[derive(Debug, Default)]
pub(crate) struct Arbiter {
    records: Vec<TermRecord>,
}

impl Arbiter {
    /// The newest term; 0 if there is none.
    pub(crate) fn newest(&self) -> Term {
        Term(self.records.len() as u64)
    }

    /// Who owns a term.
    pub(crate) fn owner(&self, term: Term) -> Option<&HostName> {
        let at = usize::try_from(term.0.checked_sub(1)?).ok()?;
        self.records.get(at).map(|record| &record.claim.host)
    }

    /// The test-and-set. A repeated claim finds its own record again.
    pub(crate) fn claim(&mut self, claim: &Claim) -> Found {
        let newest = self.newest();
        if claim.term == newest.next() {
            self.records.push(TermRecord { claim: claim.clone() });
        } else if claim.term > newest {
            return Found::Gap;
        }
        let at = usize::try_from(claim.term.0 - 1).unwrap_or(0);
        let stands = if claim.term < newest { self.records.last() } else { self.records.get(at) };
        stands.map_or(Found::Gap, |record| Found::Record(record.clone()))
    }
}
