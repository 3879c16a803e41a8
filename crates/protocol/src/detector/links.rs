//! Owns what a host knows of its links to other hosts, over sessions, roles and VMs.
//!
//! A link is no better for another VM's session, nor for the VM having moved to this end of it. So whoever listens on a
//! link tells what he learnt ([`Links::note`]), and begins his next session with what is known of it ([`Links::of`]).

use super::Gaps;
use crate::ids::HostName;
use crate::time::{Instant, Micros};
use alloc::collections::BTreeMap;

/// For so long whoever had to be more patient is believed: sessions of several VMs on one link hear different silences.
const BELIEVED: Micros = Micros::from_millis(60_000);

/// What a host knows of its links.
#[derive(Debug, Default)]
pub struct Links(BTreeMap<HostName, (Instant, Gaps)>);

impl Links {
    /// A session with this host has learnt this.
    pub fn note(&mut self, now: Instant, host: &HostName, gaps: &Gaps) {
        let known = self.0.get(host);
        let more_patient =
            |(at, known): &(Instant, Gaps)| now.since(*at) < BELIEVED && known.needs() > gaps.needs();
        if !known.is_some_and(more_patient) {
            self.0.insert(host.clone(), (now, gaps.clone()));
        }
    }

    /// What is known of the link to this host.
    #[must_use]
    pub fn of(&self, host: &HostName) -> Option<Gaps> {
        self.0.get(host).map(|(_, gaps)| gaps.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Micros = Micros::from_millis(30);
    const T: Instant = Instant(1_000_000);

    fn after(silence: Micros) -> Gaps {
        let mut gaps = Gaps::new(T, HEARTBEAT);
        gaps.add(T + silence, silence);
        gaps
    }

    #[test]
    fn the_more_patient_is_believed_for_a_while() {
        let beta = HostName::new("beta").expect("a name");
        let (quiet, late) = (after(HEARTBEAT), after(Micros::from_millis(400)));
        let mut links = Links::default();
        assert_eq!(links.of(&beta), None);
        links.note(T, &beta, &quiet);
        links.note(T, &beta, &late);
        assert_eq!(links.of(&beta).as_ref(), Some(&late), "another VM's session had to wait longer");
        links.note(T + Micros(BELIEVED.0 - 1), &beta, &quiet);
        assert_eq!(links.of(&beta).as_ref(), Some(&late));
        links.note(T + BELIEVED, &beta, &quiet);
        assert_eq!(links.of(&beta), Some(quiet), "that is long ago");
        assert_eq!(links.of(&HostName::new("gamma").expect("a name")), None);
    }
}
