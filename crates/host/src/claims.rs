//! Owns the engine's questions to the arbiter: each on a thread of its own, since shared storage may hang.

use arbiter::{Arbiter, ArbiterError};
use protocol::Claim;
use protocol::asking::ClaimAnswer;
use std::sync::Arc;

/// Asks the arbiter and hands the answer to `reply`, from another thread.
pub fn ask(
    arbiter: &Arc<dyn Arbiter>,
    claim: Claim,
    reply: impl FnOnce(Claim, ClaimAnswer) + Send + 'static,
) {
    let arbiter = Arc::clone(arbiter);
    let unasked = claim.clone();
    let spawned = std::thread::Builder::new().name("ud-claim".into()).spawn(move || {
        crate::loops::prefer_this_thread();
        let answer = answer(&*arbiter, &claim);
        reply(claim, answer);
    });
    if let Err(error) = spawned {
        // No reply: the machine would wait for ever. Without threads this host cannot go on anyway.
        tracing::error!(%error, claim = ?unasked, "cannot ask the arbiter: no thread");
    }
}

/// One question, as the protocol understands its answer.
#[must_use]
pub fn answer(arbiter: &dyn Arbiter, claim: &Claim) -> ClaimAnswer {
    match arbiter.claim(claim) {
        Ok(record) => ClaimAnswer::Record(record),
        Err(ArbiterError::Stale { newest, .. }) => ClaimAnswer::Record(*newest),
        Err(error) => ClaimAnswer::Unreachable(error.to_string()),
    }
}
