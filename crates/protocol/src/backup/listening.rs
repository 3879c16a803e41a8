//! Owns how a backup listens to its primary: what it learns of the link, what it promises by an echo, what its answers say.

use super::{Backup, Phase, Primary};
use crate::detector::{Gaps, Listening, overslept};
use crate::ids::HostName;
use crate::time::{Instant, Micros};
use crate::wire::AckBody;

impl Backup {
    /// To be called before anything else when this host's loop runs again: if it slept beyond its deadline, what came
    /// meanwhile waits to be read, and what it did not hear is no silence of the primary. Claiming later than promised
    /// harms nobody.
    pub fn wake(&mut self, now: Instant) {
        let deadline = self.deadline();
        if let Some(primary) = self.primary_mut().filter(|primary| primary.conn.is_some())
            && let Some(asleep) = overslept(deadline, now, primary.timing.heartbeat)
        {
            primary.detector.forgive(now, asleep);
        }
    }

    /// How this host listens to its primary, for displays.
    #[must_use]
    pub fn listening(&self) -> Option<Listening> {
        let primary = self.primary().filter(|primary| primary.conn.is_some())?;
        let learnt = primary.gaps.as_ref().map(Gaps::view);
        Some(Listening { timeout: primary.detector.timeout(), learnt })
    }

    /// What was learnt of the link to the primary, or to the last one, if time-outs follow it.
    #[must_use]
    pub fn learnt(&self) -> Option<(&HostName, &Gaps)> {
        let present = self.primary().and_then(|primary| Some((&primary.host, primary.gaps.as_ref()?)));
        present.or(self.known.as_ref().map(|(host, gaps)| (host, gaps)))
    }

    /// What this host knows of the link to a primary, from wherever: a session with it that is not accepted yet begins with
    /// that.
    pub fn recall(&mut self, host: &HostName, gaps: Gaps) {
        self.known = Some((host.clone(), gaps));
    }

    /// The session is over; the link is what it was.
    pub(super) fn remember(&mut self) {
        let learnt = self.learnt().map(|(host, gaps)| (host.clone(), gaps.clone()));
        self.known = learnt;
    }

    /// This host does not read on now. What it does not hear for that reason is no silence of the primary: claiming
    /// later than promised harms nobody.
    pub fn not_listening(&mut self, now: Instant) {
        if let Some(primary) = self.primary_mut().filter(|primary| primary.conn.is_some()) {
            primary.detector.excuse(now);
        }
    }

    pub(super) fn hear(&mut self, now: Instant) {
        if let Some(primary) = self.primary_mut() {
            primary.hear(now);
        }
    }

    /// An echo is a promise not to claim before the time-out: once it has claimed it makes no new ones. An old
    /// owner that wakes up then finds no lease in what it hears.
    pub(super) fn take_echo(&mut self, now: Instant, at: Instant) {
        if let Phase::Copying(primary) | Phase::Armed(primary) = &mut self.phase {
            primary.take_echo(now, at);
        }
    }

    pub(super) fn take_wish(&mut self, wish: Micros) {
        if let Phase::Copying(primary) | Phase::Armed(primary) = &mut self.phase {
            primary.wish = wish;
            primary.adapt();
        }
    }
}

impl Primary {
    fn hear(&mut self, now: Instant) {
        if let Some(gaps) = &mut self.gaps {
            gaps.add(now, self.detector.silence(now));
        }
        self.adapt();
        self.detector.hear(now);
    }

    pub(super) fn adapt(&mut self) {
        if let Some(gaps) = &self.gaps {
            self.detector.set_timeout(self.timing.bounded(gaps.needs().max(self.wish)));
        }
    }

    pub(super) fn take_echo(&mut self, now: Instant, at: Instant) {
        if at > self.echo {
            self.echo = at;
            self.leased_until = now + self.timing.timeout;
        }
    }

    /// What every answer says besides.
    pub(super) fn answer(&self, now: Instant) -> AckBody {
        AckBody { echo: self.echo, silence: self.detector.silence(now), timeout: self.detector.timeout() }
    }
}
