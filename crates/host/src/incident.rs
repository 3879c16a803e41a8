//! Owns how long the steps of an incident take at this host, from when it noticed: what operators are told says so.

use crate::words;
use protocol::notice::{Discard, Notice};
use protocol::{Instant, Micros, VmName};
use serde_json::Value;

/// What happens to one VM at this host, as far as it takes time.
#[derive(Debug, Default)]
pub struct Incident {
    /// The other host was found lost, or gave the VM up: the arbiter is asked.
    asked: Option<Instant>,
    /// The VM runs without a backup.
    alone: Option<Instant>,
}

impl Incident {
    /// A VM that runs here without a backup from now on.
    #[must_use]
    pub fn alone(now: Instant) -> Self {
        Self { asked: None, alone: Some(now) }
    }

    /// For how long the arbiter has been asked, or had been when it answered.
    #[must_use]
    pub fn lasts(&self, now: Instant) -> Option<Micros> {
        self.asked.map(|asked| now.since(asked))
    }

    /// What happened, as a value and for people, with how long it took.
    pub fn tell(&mut self, now: Instant, vm: &VmName, notice: &Notice) -> (Value, String) {
        let took = self.took(now, notice);
        let mut what = serde_json::to_value(notice).unwrap_or_default();
        if let (Some(took), Value::Object(fields)) = (took, &mut what) {
            fields.insert("after_us".into(), took.0.into());
        }
        (what, words::of(vm, notice, took))
    }

    fn took(&mut self, now: Instant, notice: &Notice) -> Option<Micros> {
        match notice {
            Notice::BackupLost { .. } | Notice::PrimaryLost { .. } | Notice::TakingOver { .. } => {
                self.asked = Some(now);
                None
            }
            // It still lasts.
            Notice::ArbiterUnreachable { .. } | Notice::Promoting { .. } => self.lasts(now),
            Notice::Protected { .. } => self.alone.take().map(|alone| now.since(alone)),
            Notice::Unprotected { .. }
            | Notice::Fenced { .. }
            | Notice::StandbyDiscarded { why: Discard::LostClaim { .. } } => {
                let lasted = self.lasts(now);
                *self = Self::alone(now);
                lasted
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::notice::LinkLoss;
    use protocol::{Epoch, HostName, Term};

    fn host(name: &str) -> HostName {
        HostName::new(name).unwrap()
    }

    fn told(incident: &mut Incident, at_ms: u64, notice: &Notice) -> (Value, String) {
        incident.tell(Instant(at_ms * 1_000), &VmName::new("web").unwrap(), notice)
    }

    #[test]
    fn a_takeover_says_who_noticed_who_was_granted_and_how_long_it_took() {
        let mut incident = Incident::default();
        let lost =
            Notice::PrimaryLost { primary: host("alpha"), epoch: Epoch(7), why: LinkLoss::Silent(300) };
        let (what, text) = told(&mut incident, 1_000, &lost);
        assert_eq!(what["after_us"], Value::Null);
        assert!(text.contains("alpha LOST: nothing was heard") && text.contains("300 ms"), "{text}");
        let unreachable = Notice::ArbiterUnreachable { why: "away".into() };
        assert!(told(&mut incident, 3_000, &unreachable).1.contains("asked for 2000.0 ms now"));
        let (what, text) = told(&mut incident, 3_004, &Notice::Promoting { term: Term(2), epoch: Epoch(7) });
        assert_eq!(what["after_us"], 2_004_000);
        assert!(text.contains("GRANTED term 2 to this host, 2004.0 ms after it noticed"), "{text}");
        assert_eq!(incident.lasts(Instant(3_050_000)), Some(Micros(2_050_000)));
    }

    #[test]
    fn an_owner_says_how_long_it_waited_and_once_only() {
        let mut incident = Incident::default();
        let unprotected = Notice::Unprotected { term: Term(2) };
        let protected = Notice::Protected { peer: host("beta"), term: Term(2) };
        assert!(!told(&mut incident, 1, &unprotected).1.contains("ms"), "nothing had happened");
        let lost = Notice::BackupLost { peer: host("beta"), why: LinkLoss::Silent(225) };
        told(&mut incident, 10, &lost);
        let (what, text) = told(&mut incident, 14, &unprotected);
        assert!(what["after_us"] == 4_000 && text.contains("4.0 ms after"), "{text}");
        assert!(!told(&mut incident, 20, &unprotected).1.contains("ms"));
        assert!(told(&mut incident, 4_220, &protected).1.contains("after 4.2 s without a backup"));
        assert!(!told(&mut incident, 4_230, &protected).1.contains("without"));
        told(&mut incident, 5_030, &lost);
        let fenced = Notice::Fenced { owner: host("beta"), term: Term(3) };
        assert!(told(&mut incident, 5_035, &fenced).1.contains("5.0 ms after"));
    }
}
