//! Owns watching the arbiter: whether it would answer if it were needed, so that people hear of it before that.
//!
//! Nothing is decided here. As long as nothing fails nobody needs the arbiter, and VMs stay protected without it.

use crate::table::Table;
use arbiter::Arbiter;
use protocol::VmName;
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Time between two looks.
const EVERY: Duration = Duration::from_secs(2);
/// A question that is open for longer is an answer too: storage that hangs gives no other.
const HANGS_AFTER: Duration = Duration::from_secs(5);

/// What is known of the arbiter's health.
#[derive(Debug, Default)]
pub struct ArbiterWatch {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the open question was asked.
    asked: Option<Instant>,
    /// Why it does not answer.
    error: Option<String>,
    /// What is wrong with the records of single VMs.
    vms: BTreeMap<VmName, String>,
}

impl ArbiterWatch {
    /// Begins to watch, from a thread of its own, until the watch is dropped.
    ///
    /// # Errors
    /// If there is no thread for it.
    pub fn start(arbiter: &Arc<dyn Arbiter>, table: &Arc<Table>) -> io::Result<Arc<Self>> {
        let watch = Arc::new(Self::default());
        let (weak, arbiter, table) = (Arc::downgrade(&watch), Arc::clone(arbiter), Arc::clone(table));
        let thread = std::thread::Builder::new().name("ud-arbiter".into());
        thread.spawn(move || watch_it(&weak, &*arbiter, &table))?;
        Ok(watch)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the arbiter does not answer; none if it does.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        let state = self.state();
        let open = state.asked.map(|asked| asked.elapsed()).filter(|open| *open > HANGS_AFTER);
        match open {
            Some(open) => Some(format!("the arbiter has not answered for {} s", open.as_secs())),
            None => state.error.clone(),
        }
    }

    /// What whoever looks at this VM should know.
    #[must_use]
    pub fn warning(&self, vm: &VmName) -> Option<String> {
        let why = self.error().or_else(|| self.state().vms.get(vm).cloned())?;
        Some(format!(
            "the arbiter is of no use now: {why}. If anything else fails, output is held until it is back"
        ))
    }

    fn look(&self, arbiter: &dyn Arbiter, table: &Table) {
        self.state().asked = Some(Instant::now());
        let error = arbiter.identity().err();
        let names: Vec<VmName> = table.vms().keys().cloned().collect();
        // Where nobody answers there is no use in asking for each.
        let names = if error.is_none() { names } else { Vec::new() };
        let vms = names.into_iter().filter_map(|vm| {
            let error = arbiter.look(&vm).err()?;
            Some((vm, error.to_string()))
        });
        let (error, vms) = (error.map(|error| error.to_string()), vms.collect());
        let mut state = self.state();
        match (&state.error, &error) {
            (None, Some(error)) => tracing::warn!("the arbiter is of no use now: {error}"),
            (Some(_), None) => tracing::info!("the arbiter answers again"),
            _ => {}
        }
        *state = State { asked: None, error, vms };
    }
}

fn watch_it(watch: &Weak<ArbiterWatch>, arbiter: &dyn Arbiter, table: &Table) {
    while let Some(watch) = watch.upgrade() {
        watch.look(arbiter, table);
        drop(watch);
        std::thread::sleep(EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arbiter::directory::{DirectoryArbiter, init};

    #[test]
    fn what_does_not_answer_is_told_and_what_does_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let arbiter = DirectoryArbiter::new(place.path());
        let (watch, table, vm) =
            (ArbiterWatch::default(), Table::default(), VmName::new("web").expect("a name"));
        assert_eq!(watch.error(), None, "nothing is known yet");
        watch.look(&arbiter, &table);
        assert!(watch.error().expect("it is no arbiter yet").contains("arbiter init"));
        assert!(watch.warning(&vm).expect("a warning").contains("output is held"));
        init(place.path()).expect("an arbiter");
        watch.look(&arbiter, &table);
        assert_eq!((watch.error(), watch.warning(&vm)), (None, None));
    }

    #[test]
    fn a_question_that_stays_open_is_told() {
        let watch = ArbiterWatch::default();
        watch.state().asked = Some(Instant::now());
        assert_eq!(watch.error(), None);
        watch.state().asked = Instant::now().checked_sub(HANGS_AFTER + Duration::from_secs(1));
        assert!(watch.error().expect("it hangs").contains("has not answered for 6 s"));
    }
}
