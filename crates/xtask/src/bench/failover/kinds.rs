//! Owns how the VM is protected when its host is killed, and in which order the kills follow each other.

use api::types::{ProtectRequest, RepairRequest};
use protocol::HostName;

/// A way of being protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As by `vm protect` without any option.
    Usual,
    /// Without input replay, and otherwise so.
    WithoutReplay,
    /// With a checkpoint every 25 ms, and otherwise so.
    Even,
}

/// So often the cycle is gone through: 100 kills of the usual kind.
const CYCLES: usize = 20;
/// Kills that follow each other. All kinds see the same machine, and as few changes of the kind as may be cost time.
const CYCLE: [Kind; 7] =
    [Kind::Usual, Kind::Usual, Kind::Usual, Kind::Usual, Kind::Usual, Kind::WithoutReplay, Kind::Even];
/// Microseconds of [`Kind::Even`].
const EVEN_US: u64 = 25_000;

impl Kind {
    /// All kills of a run.
    pub fn order(quick: bool) -> Vec<Self> {
        CYCLE.repeat(if quick { 1 } else { CYCLES })
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Usual => "usual",
            Self::WithoutReplay => "without input replay",
            Self::Even => "every 25 ms",
        }
    }

    /// Whether the VM is protected again by itself after the kill; behind the others it would only be undone.
    pub fn repairs(self) -> bool {
        self == Self::Usual
    }

    /// The request for it: the first of these hosts, and the others if that is lost.
    pub fn request(self, to: HostName, others: Vec<HostName>) -> ProtectRequest {
        let repair = RepairRequest { others, on: self.repairs(), ..RepairRequest::default() };
        let request = match self {
            Self::Usual | Self::WithoutReplay => ProtectRequest::following(to),
            Self::Even => ProtectRequest::even(to, EVEN_US),
        };
        ProtectRequest { repair, input_replay: self != Self::WithoutReplay, ..request }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_run_has_a_hundred_usual_kills_and_only_the_replay_differs_where_it_is_compared() {
        let order = Kind::order(false);
        let count = |kind| order.iter().filter(|&&one| one == kind).count();
        assert_eq!([Kind::Usual, Kind::WithoutReplay, Kind::Even].map(count), [100, 20, 20]);
        let to = HostName::new("beta").expect("a name");
        let [usual, without] =
            [Kind::Usual, Kind::WithoutReplay].map(|kind| kind.request(to.clone(), Vec::new()));
        assert!(usual.input_replay && !without.input_replay);
        assert_eq!(ProtectRequest { input_replay: true, repair: usual.repair.clone(), ..without }, usual);
    }
}
