//! Owns what a VM's newest record says to a claim and to a stop: the same for every arbiter.

use crate::ArbiterError;
use protocol::{Claim, HostName, Term, TermRecord, VmName};

/// What the newest record says to a claim that is not refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// The claimed term is the newest already: its record stands, whosever it is.
    Stands,
    /// The claimed term is the next one and free.
    Free,
}

/// Judges a claim by the newest record, which the caller has just read.
pub(crate) fn judge(claim: &Claim, newest: Option<&TermRecord>) -> Result<Ruling, ArbiterError> {
    let wanted = claim.term;
    let have = newest.map_or(Term(0), |record| record.claim.term);
    match newest {
        Some(newest) if wanted < have => {
            Err(ArbiterError::Stale { wanted, newest: Box::new(newest.clone()) })
        }
        Some(_) if wanted == have => Ok(Ruling::Stands),
        // Subtracted, not added: a term may be the largest there is.
        _ if wanted > have && wanted.0 - have.0 == 1 => Ok(Ruling::Free),
        _ => Err(ArbiterError::Gap { vm: claim.vm.clone(), wanted, newest: have }),
    }
}

/// Whether `host` may say that it stopped the VM in `term`.
pub(crate) fn may_stop(
    vm: &VmName,
    term: Term,
    host: &HostName,
    newest: Option<&TermRecord>,
) -> Result<(), ArbiterError> {
    let have = newest.map_or(Term(0), |record| record.claim.term);
    let Some(newest) = newest.filter(|_| term <= have && term > Term(0)) else {
        return Err(ArbiterError::Gap { vm: vm.clone(), wanted: term, newest: have });
    };
    if term < have {
        return Err(ArbiterError::Stale { wanted: term, newest: Box::new(newest.clone()) });
    }
    let owner = newest.claim.host.clone();
    if owner == *host {
        Ok(())
    } else {
        Err(ArbiterError::NotOwner { vm: vm.clone(), term, host: host.clone(), owner })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(term: u64, host: &str) -> TermRecord {
        let (vm, host) = (VmName::new("web").unwrap(), HostName::new(host).unwrap());
        TermRecord { claim: Claim { vm, term: Term(term), host, nonce: 7 } }
    }

    /// The table of the crate's documentation, over all small terms and the ends of the range.
    #[test]
    fn every_claim_against_every_row() {
        for have in [0, 1, 2, 3, u64::MAX - 1, u64::MAX] {
            for wanted in [0, 1, 2, 3, 4, u64::MAX - 1, u64::MAX] {
                let newest = (have > 0).then(|| record(have, "alpha"));
                let ruling = judge(&record(wanted, "beta").claim, newest.as_ref());
                let next = have.checked_add(1);
                let right = match ruling {
                    Ok(Ruling::Free) => Some(wanted) == next,
                    Ok(Ruling::Stands) => wanted == have && have > 0,
                    Err(ArbiterError::Stale { .. }) => wanted < have,
                    Err(ArbiterError::Gap { .. }) => {
                        next.is_some_and(|next| wanted > next) || (wanted == 0 && have == 0)
                    }
                    Err(other) => panic!("{other}"),
                };
                assert!(right, "term {wanted} after {have}");
            }
        }
    }

    #[test]
    fn only_the_newest_owner_may_stop() {
        let (vm, alpha) = (VmName::new("web").unwrap(), HostName::new("alpha").unwrap());
        let newest = record(3, "alpha");
        let ask = |term, newest| may_stop(&vm, Term(term), &alpha, newest);
        assert!(ask(3, Some(&newest)).is_ok());
        assert!(matches!(ask(2, Some(&newest)), Err(ArbiterError::Stale { .. })));
        for gap in [(4, Some(&newest)), (0, Some(&newest)), (1, None)] {
            assert!(matches!(ask(gap.0, gap.1), Err(ArbiterError::Gap { .. })), "{gap:?}");
        }
        assert!(matches!(ask(3, Some(&record(3, "beta"))), Err(ArbiterError::NotOwner { .. })));
    }
}
