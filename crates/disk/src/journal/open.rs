//! Owns the beginning of a journal: its creation, and its recovery up to the next life.

use super::error::JournalError;
use super::layout::{BLOCK, Layout, MARK_SLOTS, MARKS, failed};
use super::log::{Journal, Mark};
use super::replay::Replay;
use super::scan::{Scanned, scan};
use super::storage::Storage;
use protocol::journal::recovery::{Found, decide};
use protocol::journal::{Identity, Refused, Verdict};
use protocol::{Epoch, Term};
use std::io;
use std::sync::Arc;

impl<S: Storage> Journal<S> {
    /// Makes an empty journal, in the place of one that may be there. The images must hold epoch `base` (0 at the
    /// beginning of a session) and be synced.
    ///
    /// # Errors
    /// If the storage fails; what was there before may then be gone.
    pub fn create(
        storage: Arc<S>,
        layout: Layout,
        identity: Identity,
        term: Term,
        base: Epoch,
    ) -> Result<Self, JournalError> {
        let io = |action, name: &str, source| failed(&*storage, action, name, source);
        // Without marks there is no journal: a crash within leaves none.
        storage.remove(MARKS).map_err(|e| io("remove", MARKS, e))?;
        storage.sync_dir().map_err(|e| io("sync the directory of", MARKS, e))?;
        let old = storage.list().map_err(|e| io("list the files beside", MARKS, e))?;
        for name in old.iter().filter(|name| Layout::is_segment(name)) {
            storage.remove(name).map_err(|e| io("remove", name, e))?;
        }
        for name in layout.files() {
            storage.create(&name, layout.segment_len()).map_err(|e| io("create", &name, e))?;
            storage.sync(&name).map_err(|e| io("sync", &name, e))?;
        }
        storage.create(MARKS, MARK_SLOTS * BLOCK).map_err(|e| io("create", MARKS, e))?;
        storage.sync(MARKS).map_err(|e| io("sync", MARKS, e))?;
        storage.sync_dir().map_err(|e| io("sync the directory of", MARKS, e))?;
        let mark = Mark { life: 1, term, applied: base, floor: 0, synced: 0 };
        Self::begin(storage, (layout, identity), mark, 0, 0)
    }

    /// Reads a journal after a crash and decides what to do with it. `required` is the newest epoch that is known
    /// to have been acknowledged, 0 if none is. Of the files nothing is changed; what is to be applied was synced.
    ///
    /// # Errors
    /// If the storage fails, or the journal is refused: see [`protocol::journal::recovery`].
    pub fn open(storage: Arc<S>, identity: Identity, required: Epoch) -> Result<Opened<S>, JournalError> {
        let refused = |label, why| JournalError::Refused { file: storage.describe(MARKS), label, why };
        match storage.len(MARKS) {
            Ok(len) if len >= MARK_SLOTS * BLOCK => {}
            Ok(_) => return Err(refused("never begun", Refused::NotBegun)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(refused("never begun", Refused::NotBegun));
            }
            Err(e) => return Err(failed(&*storage, "look at", MARKS, e)),
        }
        let layout = Layout::found(&*storage)?;
        let scanned = scan(&*storage, layout, identity)?;
        let facts = scanned.scan.facts(required);
        let (label, verdict) = decide(&facts);
        match verdict {
            Verdict::Refuse(why) => {
                let suspect = scanned.suspect.filter(|_| facts.marks == Found::Whole);
                return Err(refusal(&*storage, label, why, suspect));
            }
            Verdict::Nothing => {}
            // After a crash of this program alone, what was read may stand in memory only. It must not reach the
            // images before it is durable here, or a power loss would leave them half changed for good.
            Verdict::Replay => {
                for name in layout.files() {
                    storage.sync(&name).map_err(|e| failed(&*storage, "sync", &name, e))?;
                }
            }
        }
        Ok(Opened { storage, layout, identity, label, scanned })
    }
}

/// The refusal, with the place to look at: the marks if no other is under suspicion.
fn refusal<S: Storage>(
    storage: &S,
    label: &'static str,
    why: Refused,
    suspect: Option<(String, u64)>,
) -> JournalError {
    let file = match suspect {
        Some((name, at)) => format!("{} from byte {at} on", storage.describe(&name)),
        None => storage.describe(MARKS),
    };
    JournalError::Refused { file, label, why }
}

/// A journal that was read and not recovered yet.
#[derive(Debug)]
pub struct Opened<S> {
    storage: Arc<S>,
    layout: Layout,
    identity: Identity,
    label: &'static str,
    scanned: Scanned,
}

impl<S: Storage> Opened<S> {
    /// Label of the row of the recovery table that decided.
    #[must_use]
    pub fn label(&self) -> &'static str {
        self.label
    }

    /// The epoch that the images are known to hold at least.
    #[must_use]
    pub fn applied(&self) -> Epoch {
        self.scanned.scan.applied()
    }

    /// The epoch that the images hold after recovery.
    #[must_use]
    pub fn committed(&self) -> Epoch {
        self.scanned.scan.committed()
    }

    /// The epochs that the images owe; `None` if they owe none.
    #[must_use]
    pub fn replay(&self) -> Option<Replay<S>> {
        if self.committed() == self.applied() {
            return None;
        }
        let begin = self.scanned.begin.clone()?;
        let storage = Arc::clone(&self.storage);
        let journal = (self.layout, self.identity);
        let epochs = (self.applied(), self.committed());
        Some(Replay::new(storage, journal, begin, self.scanned.firsts.clone(), epochs))
    }

    /// Begins the journal's next life: every record that is there becomes void. To be called when all of
    /// [`Opened::replay`] is in the images and they are synced.
    ///
    /// # Errors
    /// If the mark cannot be written; open the journal again then.
    pub fn finish(self) -> Result<Journal<S>, JournalError> {
        let Scanned { scan, mark_slot, next_segment, .. } = self.scanned;
        let floor = scan.after();
        let (term, applied) = (scan.term(), scan.committed());
        let mark = Mark { life: scan.life() + 1, term, applied, floor, synced: floor };
        let slot = (mark_slot + 1) % MARK_SLOTS;
        Journal::begin(self.storage, (self.layout, self.identity), mark, slot, next_segment)
    }
}
