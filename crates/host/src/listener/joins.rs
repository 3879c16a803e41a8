//! Owns which sessions over several paths there are here, for paths that would join them.

use crate::link::paths::Bundle;
use protocol::{HostName, Session, Term, VmId};
use std::sync::{Arc, Mutex, PoisonError, Weak};

type Identity = (VmId, Term, Session);

/// The sessions, each of the host that opened it.
#[derive(Debug, Default)]
pub struct Joins(Mutex<Vec<(HostName, Identity, Weak<Bundle>)>>);

impl Joins {
    /// A session begins. An older one of the same name is not joined any more.
    pub fn add(&self, host: HostName, identity: Identity, bundle: &Arc<Bundle>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(by, of, bundle)| bundle.strong_count() > 0 && (by, of) != (&host, &identity));
        all.push((host, identity, Arc::downgrade(bundle)));
    }

    /// The session that this host opened.
    #[must_use]
    pub fn find(&self, host: &HostName, identity: Identity) -> Option<Arc<Bundle>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(by, of, _)| by == host && *of == identity).and_then(|(.., bundle)| bundle.upgrade())
    }
}
