//! Owns reading a failover out of the events of the host that took over: who noticed when, and what took how long.

use super::watch::boot_time;
use api::types::EventRecord;
use lab::client::Gap;
use lab::report::OutageSplit;

/// The moments of a failover, on `os::clock`, and how long the promotion took by its own account.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Moments {
    /// The backup took its primary for lost, or was told that it gives up.
    pub suspected_us: Option<u64>,
    /// The arbiter had granted the next term.
    pub granted_us: Option<u64>,
    /// The VM ran again.
    pub promoted_us: Option<u64>,
    /// The epoch it went on from.
    pub epoch: Option<u64>,
    /// Applying the last checkpoint, device state, resume: together, in milliseconds.
    pub promotion_ms: Option<f64>,
    /// Waiting for the last epoch to be in the image, in milliseconds.
    pub apply_ms: Option<f64>,
    /// Giving the device state to QEMU, in milliseconds.
    pub load_ms: Option<f64>,
    /// Opening the gate and letting the processors run, in milliseconds.
    pub resume_ms: Option<f64>,
}

impl Moments {
    /// Reads the events of `host` since a moment on `os::clock`.
    pub fn read(events: &[EventRecord], host: &str, since_us: u64) -> Self {
        let mut moments = Self::default();
        let after = |event: &&EventRecord| event.host.as_str() == host && boot_time(event.at_us) >= since_us;
        for event in events.iter().filter(after) {
            moments.take(event, boot_time(event.at_us));
        }
        moments
    }

    fn take(&mut self, event: &EventRecord, at_us: u64) {
        let ms = |field: &str| event.what[field].as_u64().map(|us| us as f64 / 1e3);
        match event.what["event"].as_str() {
            Some("primary_lost" | "taking_over") => self.suspected_us = self.suspected_us.or(Some(at_us)),
            Some("promoting") => self.granted_us = Some(at_us),
            Some("promoted") => {
                self.promoted_us = Some(at_us);
                self.epoch = event.what["epoch"].as_u64();
                self.promotion_ms = ms("total_us");
                (self.apply_ms, self.load_ms, self.resume_ms) =
                    (ms("apply_us"), ms("load_us"), ms("resume_us"));
            }
            _ => {}
        }
    }

    /// Where the time of an outage went. `spoke_us` is when any client first heard the promoted VM.
    ///
    /// The parts follow each other; what is left up to the end of the outage is the unluckiest client's own wait.
    pub fn split(&self, outage: Gap, kill_us: u64, spoke_us: Option<u64>) -> OutageSplit {
        let end = outage.started_us + outage.duration_us;
        let killed = kill_us.max(outage.started_us);
        let between = |from: Option<u64>, to: Option<u64>| {
            let (from, to) = (from?, to?.min(end));
            Some(to.saturating_sub(from) as f64 / 1e3)
        };
        OutageSplit {
            before_kill_ms: between(Some(outage.started_us), Some(killed)),
            detection_ms: between(Some(killed), self.suspected_us),
            grant_ms: between(self.suspected_us, self.granted_us),
            promotion_ms: between(self.granted_us, self.promoted_us),
            first_packet_ms: between(self.promoted_us, spoke_us),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(seq: u64, host: &str, at_us: u64, what: serde_json::Value) -> EventRecord {
        let record =
            json!({ "seq": seq, "at_us": at_us, "host": host, "vm": "web", "what": what, "text": "" });
        serde_json::from_value(record).expect("an event")
    }

    #[test]
    fn the_parts_of_an_outage_follow_each_other_and_fill_it() {
        let moments = Moments {
            suspected_us: Some(1_300_000),
            granted_us: Some(1_310_000),
            promoted_us: Some(1_330_000),
            ..Moments::default()
        };
        let outage = Gap { started_us: 980_000, duration_us: 500_000 };
        let split = moments.split(outage, 1_000_000, Some(1_340_000));
        assert_eq!(split.before_kill_ms, Some(20.0));
        assert_eq!(split.detection_ms, Some(300.0));
        assert_eq!((split.grant_ms, split.promotion_ms), (Some(10.0), Some(20.0)));
        assert_eq!(split.first_packet_ms, Some(10.0));
    }

    #[test]
    fn a_reply_that_came_after_the_kill_began_shortens_the_detection() {
        let moments = Moments { suspected_us: Some(1_300_000), ..Moments::default() };
        let split = moments.split(Gap { started_us: 1_005_000, duration_us: 400_000 }, 1_000_000, None);
        assert_eq!((split.before_kill_ms, split.detection_ms), (Some(0.0), Some(295.0)));
        assert_eq!((split.grant_ms, split.first_packet_ms), (None, None));
    }

    #[test]
    fn only_the_new_owners_own_words_since_the_kill_count() {
        let now = os::clock::realtime_us();
        let promoted = json!({ "event": "promoted", "epoch": 7, "total_us": 12_500, "apply_us": 500 });
        let events = [
            event(1, "beta", now - 9_000_000, json!({ "event": "promoting" })),
            event(2, "alpha", now, json!({ "event": "promoting" })),
            event(3, "beta", now, promoted),
        ];
        let moments = Moments::read(&events, "beta", boot_time(now - 1_000_000));
        assert_eq!(moments.granted_us, None);
        assert_eq!((moments.epoch, moments.promotion_ms, moments.apply_ms), (Some(7), Some(12.5), Some(0.5)));
    }
}
