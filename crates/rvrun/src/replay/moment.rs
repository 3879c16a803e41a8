//! Owns moments of a replay: where it stood, so that it can be taken up again there. The machine itself is in the
//! snapshots of a [`History`], under the same numbers.

use super::{Replay, ReplayError};
use crate::digest::Digest;
use crate::log::{Event, Place};
use rv::{History, Output};
use std::collections::BTreeMap;
use std::io::{Read, Seek};

/// A replay as it stood somewhere, but for its machine.
#[derive(Debug)]
struct Moment {
    place: Place,
    next: Option<(u64, Event)>,
    digest: Digest,
    open: BTreeMap<(u8, u64), Output>,
    said: u64,
    before: u64,
    reboots: u64,
    compared: u64,
    delivered: u64,
    position: u64,
}

/// Moments in the replay's order.
#[derive(Debug)]
pub(crate) struct Moments {
    history: History,
    moments: Vec<Moment>,
}

impl Moments {
    /// Begins with the present.
    pub fn begin<R: Read + Seek>(replay: &mut Replay<R>) -> Moments {
        let moments = vec![replay.moment()];
        Moments { history: History::begin(&mut replay.machine), moments }
    }

    /// Bytes that they take, about.
    pub fn bytes(&self) -> usize {
        self.history.bytes()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.moments.len()
    }

    /// The position of one.
    pub fn position(&self, number: usize) -> Option<u64> {
        self.moments.get(number).map(|moment| moment.position)
    }

    /// The last one at or before a position; the first is before all.
    pub fn last_before(&self, position: u64) -> usize {
        self.moments.partition_point(|moment| moment.position <= position).saturating_sub(1)
    }

    /// Keeps the present, if it is not kept yet.
    pub fn keep<R: Read + Seek>(&mut self, replay: &mut Replay<R>) -> Result<(), ReplayError> {
        let moment = replay.moment();
        let last = self.last_before(moment.position);
        if self.position(last) == Some(moment.position) {
            return self.take_up(replay, last);
        }
        let number = self.history.keep(&mut replay.machine, last).map_err(ReplayError::Snapshot)?;
        self.moments.insert(number, moment);
        Ok(())
    }

    /// Forgets those of which this is not wanted. The first is kept, and the one from which the replay came.
    pub fn retain(&mut self, wanted: impl Fn(u64) -> bool) {
        for number in (1..self.moments.len()).rev() {
            if !wanted(self.moments[number].position) && self.history.forget(number) {
                self.moments.remove(number);
            }
        }
    }

    /// Takes the replay back to one.
    pub fn take_up<R: Read + Seek>(
        &mut self,
        replay: &mut Replay<R>,
        number: usize,
    ) -> Result<(), ReplayError> {
        self.history.go(&mut replay.machine, number).map_err(ReplayError::Snapshot)?;
        let moment = &self.moments[number];
        replay.reader.go_to(moment.place)?;
        replay.next.clone_from(&moment.next);
        replay.digest.clone_from(&moment.digest);
        replay.open.clone_from(&moment.open);
        let Moment { said, before, reboots, compared, delivered, .. } = *moment;
        (replay.said, replay.before, replay.reboots) = (said, before, reboots);
        (replay.compared, replay.delivered) = (compared, delivered);
        Ok(())
    }
}

impl<R: Read + Seek> Replay<R> {
    fn moment(&self) -> Moment {
        Moment {
            place: self.reader.place(),
            next: self.next.clone(),
            digest: self.digest.clone(),
            open: self.open.clone(),
            said: self.said,
            before: self.before,
            reboots: self.reboots,
            compared: self.compared,
            delivered: self.delivered,
            position: self.position(),
        }
    }
}
