//! Owns what was measured of a path between two hosts, and its judgement: pure.

use super::facts::InterfaceFacts;
use super::finding::Check;
use crate::config::HostConfig;
use crate::measure::summary;
use api::doctor::Finding;
use os::tcp::TcpPath;
use protocol::Micros;
use std::net::SocketAddr;
use std::time::Duration;

/// Clocks that differ by more tell an incident in the wrong order.
const CLOCKS_APART: u64 = 100_000;
/// Certificates are valid from a day before they were made: long before that somebody must hear of it.
const CLOCKS_FAR_APART: u64 = 3_600_000_000;
/// Each packet that a guest sends waits for a round trip at least.
const SLOW: Micros = Micros::from_millis(5);
/// No packet of IP is longer, whatever an interface such as the loopback could carry.
const LONGEST: u32 = 65_535;
/// A gigabit link carries some more.
const NARROW: f64 = 100e6;
/// Less carries the checkpoints of no guest that does something.
const TOO_NARROW: f64 = 2e6;

const MTU: Check = Check {
    name: "packet size",
    why: "Pages go in packets of full size: where those are lost, heartbeats still come and no checkpoint does.",
};
const ROUND_TRIP: Check = Check {
    name: "round trip",
    why: "What a guest sends leaves only when its checkpoint was acknowledged: after a round trip at the soonest.",
};
const CLOCKS: Check = Check {
    name: "clocks",
    why: "Events of both hosts are laid side by side by their times after an incident; certificates are judged by them.",
};
const BANDWIDTH: Check = Check {
    name: "bandwidth",
    why: "A guest that writes faster than the link carries is slowed, and a first copy takes as long as its bytes do.",
};

/// One question for the time of day, by the clocks of both hosts, microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// It was asked, by this host's clock.
    pub sent_us: u64,
    /// It came, by the other host's.
    pub came_us: u64,
    /// The answer went, by the other host's.
    pub goes_us: u64,
    /// It was there, by this host's.
    pub back_us: u64,
    /// From asking to the answer by a clock that nobody sets.
    pub round_trip_us: u64,
}

/// By how much another host's clock is ahead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockDifference {
    /// Microseconds.
    pub ahead_us: i64,
    /// It may be so much more or less.
    pub error_us: u64,
}

/// What the fastest exchange says: of it the least is unknown, at most half of its time on the way.
#[must_use]
pub fn clock_difference(samples: &[Sample]) -> Option<ClockDifference> {
    let fastest = samples.iter().min_by_key(|sample| sample.round_trip_us)?;
    let [sent, came, goes, back] =
        [fastest.sent_us, fastest.came_us, fastest.goes_us, fastest.back_us].map(i128::from);
    let ahead = ((came - sent) + (goes - back)) / 2;
    let ahead = ahead.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    Some(ClockDifference {
        ahead_us: i64::try_from(ahead).unwrap_or(i64::MAX),
        error_us: fastest.round_trip_us.div_ceil(2),
    })
}

/// A burst in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Carried {
    /// Bytes.
    pub bytes: u64,
    /// In so many microseconds.
    pub us: u64,
}

impl Carried {
    /// Bytes a second.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "for display and a coarse comparison")]
    pub fn rate(self) -> f64 {
        self.bytes as f64 * 1e6 / self.us.max(1) as f64
    }
}

/// What became of the measuring of bandwidth.
#[derive(Debug, Clone, PartialEq)]
pub enum Bursts {
    /// To the other host, and from it.
    Carried(Carried, Carried),
    /// It was left out, for this reason.
    LeftOut(String),
    /// It failed.
    Failed(String),
}

/// A path that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    /// The other host's end.
    pub address: SocketAddr,
    /// This host's end.
    pub here: Option<InterfaceFacts>,
    /// What the kernel knows of it.
    pub tcp: Option<TcpPath>,
    /// Round trips with the times of both clocks.
    pub samples: Vec<Sample>,
    /// Packets of full size arrive in both directions, or why not.
    pub full_size: Result<(), String>,
    /// What it carries.
    pub bursts: Bursts,
}

impl Measured {
    /// Judges it. `there` is the other end as the other host knows it; `config` is this host's; `memory` that of the VM that
    /// is asked about, in bytes.
    #[must_use]
    pub fn judge(
        &self,
        of: &str,
        there: Option<&InterfaceFacts>,
        config: &HostConfig,
        memory: Option<u64>,
    ) -> Vec<Finding> {
        let timeout = Duration::from_micros(config.shortest_timeout().0);
        vec![self.packet_size(of, there), self.round_trip(of, timeout), self.bandwidth(of, memory)]
    }

    fn packet_size(&self, of: &str, there: Option<&InterfaceFacts>) -> Finding {
        let end = |end: Option<&InterfaceFacts>| {
            end.map_or("an interface that is not known".into(), |end| {
                format!("{} with MTU {}", end.name, end.mtu)
            })
        };
        let (here, there_says) = (end(self.here.as_ref()), end(there));
        let mut found = format!("{}: {here} here, {there_says} there", self.address);
        if let Some(tcp) = self.tcp {
            found += &format!("; the way carries {} bytes, {} of them payload", tcp.mtu, tcp.segment);
        }
        if let Err(why) = &self.full_size {
            let found = format!("{found}; short packets arrive and long ones do not: {why}");
            let remedy = "set the same MTU on both interfaces and on every switch and tunnel between them, and let ICMP \
                          \"fragmentation needed\" through";
            return MTU.failure(of, found, remedy);
        }
        let mtu_here = self.here.as_ref().map(|end| end.mtu);
        match (mtu_here, there.map(|end| end.mtu)) {
            (Some(first), Some(second)) if first != second => MTU.warning(
                of,
                found,
                format!("set both to the same MTU: the end with {} loses what is longer", first.min(second)),
            ),
            (Some(first), _) if self.tcp.is_some_and(|tcp| tcp.mtu < first.min(LONGEST)) => MTU.warning(
                of,
                found,
                "something between the hosts carries less than their interfaces: mend its MTU",
            ),
            _ => MTU.ok(of, format!("{found}; packets of full size arrive both ways")),
        }
    }

    fn round_trip(&self, of: &str, timeout: Duration) -> Finding {
        let took = self.samples.iter().map(|sample| Micros(sample.round_trip_us).as_millis_f64());
        let ms = summary(took.collect());
        if ms.count == 0 {
            return ROUND_TRIP.skipped(of, format!("{}: it was not measured", self.address));
        }
        let found = format!(
            "{}: {:.2} ms at best, {:.2} ms median, {:.2} ms p99 of {}",
            self.address, ms.min, ms.median, ms.p99, ms.count
        );
        if ms.p99 > timeout.as_secs_f64() * 1e3 / 3.0 {
            let remedy = format!(
                "raise timeout_ms in [detection] ({} ms now) well above it, or find out why the link is so slow",
                timeout.as_millis()
            );
            return ROUND_TRIP.failure(of, found, remedy);
        }
        if ms.median > SLOW.as_millis_f64() {
            return ROUND_TRIP.warning(of, found, "use a shorter way between the hosts");
        }
        ROUND_TRIP.ok(of, found)
    }

    fn bandwidth(&self, of: &str, memory: Option<u64>) -> Finding {
        let address = self.address;
        let (to, from) = match &self.bursts {
            Bursts::Carried(to, from) => (*to, *from),
            Bursts::LeftOut(why) => return BANDWIDTH.skipped(of, format!("{address}: {why}")),
            Bursts::Failed(why) => {
                return BANDWIDTH.failure(
                    of,
                    format!("{address}: {why}"),
                    "see why the connection broke under load",
                );
            }
        };
        let mb = |carried: Carried| carried.rate() / 1e6;
        let mut found =
            format!("{address}: {:.0} MB/s to the other host, {:.0} MB/s from it", mb(to), mb(from));
        if let Some(memory) = memory {
            #[expect(clippy::cast_precision_loss, reason = "for display")]
            let seconds = memory as f64 / to.rate().max(1.0);
            found += &format!("; a first copy of the VM's memory takes {seconds:.1} s at most");
        }
        if let Some(tcp) = self.tcp.filter(|tcp| tcp.sent_again > 0) {
            found += &format!("; {} packets were lost on the way", tcp.sent_again);
        }
        let remedy = "use a faster link for replication, or a second one";
        match to.rate().min(from.rate()) {
            rate if rate < TOO_NARROW => BANDWIDTH.failure(of, found, remedy),
            rate if rate < NARROW => BANDWIDTH.warning(of, found, remedy),
            _ => BANDWIDTH.ok(of, found),
        }
    }
}

/// Judges by how much the clocks of two hosts differ, as far as all paths together tell.
#[must_use]
pub fn clocks(of: &str, peer: &str, samples: &[Sample]) -> Finding {
    let Some(ClockDifference { ahead_us, error_us }) = clock_difference(samples) else {
        return CLOCKS.skipped(of, "the other host's clock could not be asked");
    };
    let apart = ahead_us.unsigned_abs();
    let ms = |us: u64| Micros(us).as_millis_f64();
    let which = if ahead_us < 0 { "behind" } else { "ahead" };
    let found = format!("{peer} is {:.3} ms {which} (± {:.3} ms)", ms(apart), ms(error_us));
    let remedy = "run an NTP service, such as chrony, on both hosts";
    match apart.saturating_sub(error_us) {
        beyond if beyond > CLOCKS_FAR_APART => CLOCKS.failure(of, found, remedy),
        beyond if beyond > CLOCKS_APART => CLOCKS.warning(of, found, remedy),
        _ => CLOCKS.ok(of, found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::doctor::Verdict;
    use std::path::Path;

    fn config() -> HostConfig {
        let text = "name = 'a'\nlisten = '127.0.0.1:1'\nstate_dir = '/x'\napi_socket = '/s'\n[arbiter]\ndirectory = '/a'";
        HostConfig::parse(Path::new("a.toml"), text).unwrap()
    }

    fn sample(ahead: i64, way_us: u64) -> Sample {
        let sent_us = 1_700_000_000_000_000;
        let came_us = (sent_us + way_us).checked_add_signed(ahead).unwrap();
        let goes_us = came_us + 10;
        Sample {
            sent_us,
            came_us,
            goes_us,
            back_us: sent_us + 2 * way_us + 10,
            round_trip_us: 2 * way_us + 10,
        }
    }

    fn measured() -> Measured {
        let end = InterfaceFacts { address: "10.0.0.1".into(), name: "eth1".into(), mtu: 1_500 };
        let carried = Carried { bytes: 128 << 20, us: 1_000_000 };
        Measured {
            address: "10.0.0.2:7400".parse().unwrap(),
            here: Some(end),
            tcp: Some(TcpPath { mtu: 1_500, segment: 1_448, sent_again: 0 }),
            samples: vec![sample(0, 100); 20],
            full_size: Ok(()),
            bursts: Bursts::Carried(carried, carried),
        }
    }

    fn end(mtu: u32) -> InterfaceFacts {
        InterfaceFacts { address: "10.0.0.2".into(), name: "eth1".into(), mtu }
    }

    fn amiss(measured: &Measured, there: u32) -> Vec<(String, Verdict)> {
        let findings = measured.judge("a, b", Some(&end(there)), &config(), Some(1 << 30));
        let bad = findings.into_iter().filter(|finding| finding.verdict != Verdict::Ok);
        bad.map(|finding| (finding.check, finding.verdict)).collect()
    }

    #[test]
    fn the_fastest_exchange_tells_the_clocks_and_how_sure_it_is() {
        for ahead in [0, 1_400_000, -90_000, 7_200_000_000] {
            let slow = Sample { came_us: 0, ..sample(ahead, 900_000) };
            let found = clock_difference(&[slow, sample(ahead, 100), slow]).unwrap();
            assert_eq!(found, ClockDifference { ahead_us: ahead, error_us: 105 });
        }
        assert_eq!(clock_difference(&[]), None);
        // Another host may say anything.
        let wild = Sample { came_us: u64::MAX, goes_us: u64::MAX, ..sample(0, 1) };
        assert!(clock_difference(&[wild]).unwrap().ahead_us > 0);
    }

    #[test]
    fn clocks_that_are_apart_are_told_by_how_much_it_matters() {
        for (ahead, verdict) in [
            (0, Verdict::Ok),
            (99_000, Verdict::Ok),
            (1_400_000, Verdict::Warning),
            (-1_400_000, Verdict::Warning),
            (4_000_000_000, Verdict::Failure),
        ] {
            assert_eq!(clocks("a, b", "b", &[sample(ahead, 100)]).verdict, verdict, "{ahead}");
        }
        let behind = clocks("a, b", "b", &[sample(-1_400_000, 100)]);
        assert_eq!(behind.found, "b is 1400.000 ms behind (± 0.105 ms)");
        // As slow as the link is nobody can say.
        assert_eq!(clocks("a, b", "b", &[sample(1_400_000, 2_000_000)]).verdict, Verdict::Ok);
    }

    #[test]
    fn a_good_path_is_good_and_each_thing_that_is_amiss_is_named_alone() {
        use Verdict::{Failure, Skipped, Warning};
        assert_eq!(amiss(&measured(), 1_500), []);
        type Spoil = fn(&mut Measured);
        let cases: [(&str, Verdict, Spoil); 9] = [
            ("packet size", Failure, |m| m.full_size = Err("no answer".into())),
            ("packet size", Warning, |m| m.tcp.as_mut().unwrap().mtu = 1_400),
            ("round trip", Failure, |m| m.samples = vec![sample(0, 60_000); 20]),
            ("round trip", Warning, |m| m.samples = vec![sample(0, 4_000); 20]),
            ("round trip", Skipped, |m| m.samples.clear()),
            ("bandwidth", Skipped, |m| m.bursts = Bursts::LeftOut("VMs are protected over it".into())),
            ("bandwidth", Failure, |m| m.bursts = Bursts::Failed("it broke".into())),
            ("bandwidth", Warning, |m| {
                let slow = Carried { bytes: 20_000_000, us: 1_000_000 };
                m.bursts = Bursts::Carried(slow, Carried { us: 1, ..slow });
            }),
            ("bandwidth", Failure, |m| {
                let slow = Carried { bytes: 1_000_000, us: 1_000_000 };
                m.bursts = Bursts::Carried(Carried { us: 1, ..slow }, slow);
            }),
        ];
        for (check, verdict, spoil) in cases {
            let mut spoilt = measured();
            spoil(&mut spoilt);
            assert_eq!(amiss(&spoilt, 1_500), [(check.to_owned(), verdict)]);
        }
    }

    #[test]
    fn an_mtu_that_is_smaller_on_one_side_is_a_warning_whichever_side_it_is() {
        for there in [1_400, 9_000] {
            assert_eq!(amiss(&measured(), there), [("packet size".to_owned(), Verdict::Warning)]);
        }
    }
}
