//! What every arbiter's clients must do when the arbiter is away, or not what it was.

use super::place::Place;
use super::{claim, host, until, vm};
use arbiter::memory::Remembering;
use arbiter::{Arbiter, ArbiterError};
use protocol::{Claim, Grant, Term, TermRecord};

/// Asks until there is an answer, as hosts do.
pub fn persist(arbiter: &dyn Arbiter, claim: &Claim) -> TermRecord {
    let mut record = None;
    until("the arbiter answers", || {
        match arbiter.claim(claim) {
            Ok(answer) => record = Some(answer),
            Err(error) => assert!(error.is_unreachable(), "{error}"),
        }
        record.is_some()
    });
    record.unwrap()
}

fn persist_in_looking(arbiter: &dyn Arbiter, look: impl Fn(Result<arbiter::View, ArbiterError>)) {
    let mut answer = None;
    until("the arbiter answers", || {
        answer = Some(arbiter.look(&vm("web")));
        !matches!(&answer, Some(Err(error)) if error.is_unreachable())
    });
    look(answer.unwrap());
}

fn won(claim: &Claim, record: &TermRecord) -> bool {
    Grant::from_record(claim, record).is_some()
}

/// Away, nobody gets anything; back again, the same clients go on, and what was granted stands.
pub fn gone_and_back(place: &mut dyn Place) {
    let (alpha, beta) = (place.client(), place.client());
    let first = claim("web", 1, "alpha", 1);
    assert!(won(&first, &persist(&*alpha, &first)));
    place.lose();
    let (mine, theirs) = (claim("web", 2, "alpha", 2), claim("web", 2, "beta", 3));
    let errors = [
        alpha.claim(&mine).unwrap_err(),
        beta.claim(&theirs).unwrap_err(),
        alpha.look(&vm("web")).unwrap_err(),
        alpha.mark_stopped(&vm("web"), Term(1), &host("alpha")).unwrap_err(),
        alpha.identity().unwrap_err(),
        alpha.vms().unwrap_err(),
    ];
    for error in errors {
        assert!(error.is_unreachable() && error.to_string().contains(&alpha.describe()), "{error}");
    }
    place.find();
    let record = persist(&*beta, &theirs);
    assert_eq!(persist(&*alpha, &mine), record, "both are told the same");
    // A claim that found nobody may still have been written by then: one of the two has won, whichever.
    assert!(won(&mine, &record) != won(&theirs, &record));
    assert!(matches!(alpha.claim(&first), Err(ArbiterError::Stale { .. })), "term 1 is over");
}

/// Put back in time it grants a term a second time, and a host that remembers is not taken in.
pub fn back_in_time(place: &mut dyn Place) {
    let memory = tempfile::tempdir().unwrap();
    let remembering = |name| Remembering::new(place_client(place), &memory.path().join(name)).unwrap();
    let (alpha, beta) = (remembering("alpha"), remembering("beta"));
    let first = claim("web", 1, "alpha", 1);
    assert!(won(&first, &persist(&alpha, &first)));
    alpha.mark_stopped(&vm("web"), Term(1), &host("alpha")).unwrap();
    place.back_up();
    let second = claim("web", 2, "alpha", 2);
    assert!(won(&second, &persist(&alpha, &second)));
    persist_in_looking(&beta, |view| assert!(!view.unwrap().standing.unwrap().stopped));
    place.restore();
    // As its old data have it, the VM was stopped: a stranger starts it.
    let stranger = place.client();
    persist_in_looking(&*stranger, |view| assert!(view.unwrap().standing.unwrap().stopped));
    for host in [&alpha, &beta] {
        persist_in_looking(host, |view| {
            let error = view.unwrap_err();
            let refused = matches!(error, ArbiterError::WentBack { .. } | ArbiterError::Strange { .. });
            assert!(refused, "{error}");
        });
    }
    let again = claim("web", 2, "stranger", 9);
    assert!(won(&again, &persist(&*stranger, &again)), "the arbiter itself knows no better");
    for (host, term) in [(&alpha, 2), (&alpha, 3), (&beta, 3)] {
        let error = host.claim(&claim("web", term, "beta", 7)).unwrap_err();
        assert!(!error.is_unreachable(), "term {term}: {error}");
    }
    // A host's next life remembers too: the same arbiter, another client.
    drop(beta);
    let beta = Remembering::new(place.client(), &memory.path().join("beta")).unwrap();
    let error = beta.look(&vm("web")).unwrap_err();
    assert!(matches!(error, ArbiterError::WentBack { .. }), "{error}");
}

fn place_client(place: &dyn Place) -> Box<dyn Arbiter> {
    place.client()
}
