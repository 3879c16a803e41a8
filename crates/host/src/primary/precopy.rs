//! Owns the push phase of a migration: all memory, then in rounds what the guest wrote, as `protocol::migration` decides.
//!
//! A round is over when its pages are in the destination's copy, not when they were queued or had left: only then its time
//! tells how fast they get there, and nothing lies before what is sent at the stop.

use super::brake::Brake;
use super::copy::{Copy, Outcome};
use super::orders::Done;
use crate::link::Part;
use crate::loops::micros;
use crate::staging::PooledBuffer;
use api::migration::{RoundStatus, RoundsEnd};
use api::types::CopyProgress;
use crossbeam_channel::RecvTimeoutError;
use os::range::PAGE_SIZE;
use protocol::migration::{Migration, Round, Step, View, WorkingSet};
use protocol::wire::ToBackup;
use protocol::{Epoch, Micros};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Pages that are queued at a time, and of each of a migration's buffers: 4 MiB.
pub const CHUNK: usize = 1_024;
/// With a bound on the rate so much time's worth of them.
const CHUNK_TIME: f64 = 0.02;
/// A shorter round would not tell what the guest writes again and again.
const LEAST_ROUND: Duration = Duration::from_millis(5);
/// How often to look for a free buffer, and whether the destination has all.
const LOOK: Duration = Duration::from_micros(500);
/// Disk changes of a running guest are sent on when so much of them may wait behind the link.
const DISK_PAUSE: Duration = Duration::from_millis(1);

/// What the loop is told of a round.
#[derive(Debug)]
pub struct RoundTold {
    /// The round.
    pub round: RoundStatus,
    /// What the policy makes of it.
    pub view: View,
    /// For how long the guest stood still in all to be slowed.
    pub slowed: Micros,
    /// Why it was the last.
    pub ended: Option<RoundsEnd>,
}

/// Why the push phase does not go on.
enum End {
    /// The session ended.
    Session,
    /// It failed.
    Failed(String),
}

impl From<String> for End {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl Copy<'_> {
    /// Copies until the policy wants the guest stopped, or left alone. The guest runs then if it ran before.
    pub fn migrate(&mut self, mut policy: Migration, mut brake: Brake) -> Outcome {
        match self.disks() {
            Ok(true) => {}
            Ok(false) => return Outcome::Ended,
            Err(why) => return Outcome::Failed(why),
        }
        let pushed = self.push(&mut policy, &mut brake);
        let let_go = brake.let_go();
        match (pushed, let_go) {
            (Ok(outcome), Ok(())) => outcome,
            (Err(End::Session), Ok(())) => Outcome::Ended,
            (Err(End::Failed(why)), _) | (_, Err(why)) => Outcome::Failed(why),
        }
    }

    fn push(&mut self, policy: &mut Migration, brake: &mut Brake) -> Result<Outcome, End> {
        let mut set = WorkingSet::new(&self.ram.page_counts());
        let mut send = Vec::new();
        let Some(ranges) = self.all_memory()? else { return Err(End::Session) };
        self.ram.number(&ranges, &mut send);
        let (mut step, mut copied) = (policy.begin(), 0);
        loop {
            let (rate, slowdown) = match step {
                Step::Round { rate, slowdown } => (rate, slowdown),
                Step::Stop(_) => break,
                Step::GiveUp(why) => return Ok(Outcome::GivenUp(why.to_string())),
            };
            brake.set(slowdown);
            self.pace.limit(rate);
            let (began, sent) = (Instant::now(), send.len() as u64);
            self.send_round((policy.view().rounds + 1, &send), chunk(rate), &mut copied, brake)?;
            self.rest(LEAST_ROUND.saturating_sub(began.elapsed()), brake)?;
            let took = micros(began.elapsed());
            let mut ranges = Vec::new();
            self.tracker.scan_live(&mut ranges).map_err(|error| error.to_string())?;
            let mut dirtied = Vec::new();
            self.ram.number(&ranges, &mut dirtied);
            let written = dirtied.len() as u64;
            send = set.after_round(dirtied);
            let left = (send.len() + set.hot().len()) as u64;
            let round = Round { sent, took, dirtied: written, left };
            step = policy.after(round);
            self.tell_round(policy.view(), round, set.hot().len() as u64, rate, brake, step);
        }
        // What is owed goes with the checkpoint behind the stop.
        let owed: Vec<_> = send.iter().chain(set.hot()).copied().collect();
        self.tracker.give_back(&self.ram.addresses(&owed));
        Ok(Outcome::Copied)
    }

    fn tell_round(&self, view: View, round: Round, hot: u64, rate: Option<u64>, brake: &Brake, step: Step) {
        let wire_bytes = self.outbox.copy_wire().memory.load(Ordering::Relaxed);
        let round = RoundStatus { number: view.rounds, round, hot, rate, wire_bytes };
        let slowed = micros(brake.total());
        let ended = match step {
            Step::Round { .. } => None,
            Step::Stop(reason) => Some(RoundsEnd::Stop(reason)),
            Step::GiveUp(why) => Some(RoundsEnd::GivenUp(why)),
        };
        let _ = self.done.send(Done::Round(Box::new(RoundTold { round, view, slowed, ended })));
    }

    /// Sends these pages, and waits until the destination has them.
    fn send_round(
        &mut self,
        (round, pages): (u32, &[(u8, u64)]),
        chunk: usize,
        copied_bytes: &mut u64,
        brake: &mut Brake,
    ) -> Result<(), End> {
        let mut remaining_bytes = pages.len() as u64 * PAGE_SIZE;
        for part in pages.chunks(chunk) {
            let progress = CopyProgress { round, copied_bytes: *copied_bytes, remaining_bytes };
            let _ = self.done.send(Done::CopyProgress(progress));
            while let Some(wait) = self.pace.wait() {
                self.rest(wait, brake)?;
            }
            let buffer = self.free_buffer(brake)?;
            let bytes = part.len() as u64 * PAGE_SIZE;
            let part = Part::copy(self.ram, part, buffer).map_err(|error| error.to_string())?;
            self.outbox.part(Epoch(0), part.packed(self.pack()).once(round == 1));
            // By what is on the wire, which lags behind by what waits in the buffers.
            let wire = self.outbox.copy_wire().memory.load(Ordering::Relaxed);
            self.pace.sent(wire - std::mem::replace(&mut self.wire, wire));
            *copied_bytes += bytes;
            remaining_bytes -= bytes;
            // Nothing is behind the first copy of the disks but what the guest writes now: not all of it shall wait for the stop.
            self.outbox.disks(Epoch(0), self.tap.take());
            brake.tick()?;
        }
        self.reached = false;
        self.outbox.to_backup(&ToBackup::Mark);
        while !self.reached {
            self.rest(LOOK, brake)?;
        }
        Ok(())
    }

    fn free_buffer(&mut self, brake: &mut Brake) -> Result<PooledBuffer, End> {
        loop {
            if let Some(buffer) = self.pool.try_take() {
                return Ok(buffer);
            }
            self.rest(LOOK, brake)?;
        }
    }

    /// Lets time pass, heeding orders and the brake.
    fn rest(&mut self, time: Duration, brake: &mut Brake) -> Result<(), End> {
        let until = Instant::now() + time;
        loop {
            brake.tick()?;
            let next = brake.due().map_or(until, |due| due.min(until)).min(Instant::now() + DISK_PAUSE);
            match self.jobs.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) if Instant::now() >= until => return Ok(()),
                Err(RecvTimeoutError::Timeout) => self.outbox.disks(Epoch(0), self.tap.take()),
                job => {
                    if !self.heed(job.ok()) {
                        return Err(End::Session);
                    }
                }
            }
        }
    }
}

fn chunk(rate: Option<u64>) -> usize {
    let pages = rate.map_or(CHUNK as f64, |rate| rate as f64 * CHUNK_TIME / PAGE_SIZE as f64);
    (pages as usize).clamp(8, CHUNK)
}
