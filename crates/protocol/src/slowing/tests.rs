use super::*;
use alloc::vec::Vec;
use proptest::prelude::*;

const MS: u64 = 1_000;

/// A guest, a link and the brake between them, with a checkpoint each 25 ms.
struct Road {
    brake: Brake,
    now: Instant,
    epoch: u64,
    /// Pages a millisecond that the guest writes when it is not slowed, and that the link carries.
    writes: u64,
    carries: u64,
    /// One way and back.
    far: Micros,
    /// The link is busy until then.
    free_at: Instant,
    acks: VecDeque<(Instant, Epoch)>,
    most_late: Micros,
    percents: Vec<u8>,
}

impl Road {
    fn new(most: u8, writes: u64, carries: u64, far: u64) -> Self {
        let now = Instant(1_000 * MS);
        Self {
            brake: Brake::new(most, now),
            now,
            epoch: 0,
            writes,
            carries,
            far: Micros(far),
            free_at: now,
            acks: VecDeque::new(),
            most_late: Micros(0),
            percents: Vec::new(),
        }
    }

    /// An epoch of 25 ms, or longer until the window of four has room: then the guest stands still.
    fn epoch(&mut self) {
        let cut_due = self.now + Micros(25 * MS);
        self.hear(cut_due);
        let mut cut_at = cut_due;
        while self.acks.len() >= 4 {
            cut_at = cut_at.max(self.acks[0].0);
            self.hear(cut_at);
        }
        let pages = 25 * self.writes * u64::from(100 - self.brake.percent()) / 100;
        self.epoch += 1;
        self.now = cut_at;
        let stood = cut_at.since(cut_due);
        self.brake.taken(cut_at, Epoch(self.epoch), cut_at, (pages, stood));
        self.free_at = self.free_at.max(cut_at) + Micros(pages * MS / self.carries);
        let ack = self.free_at + self.far;
        self.most_late = self.most_late.max(ack.since(cut_at));
        self.acks.push_back((ack, Epoch(self.epoch)));
        self.percents.push(self.brake.percent());
    }

    fn hear(&mut self, until: Instant) {
        while let Some(&(at, epoch)) = self.acks.front().filter(|(at, _)| *at <= until) {
            self.acks.pop_front();
            self.brake.acknowledged(at, epoch);
        }
    }

    fn epochs(&mut self, count: u64) {
        (0..count).for_each(|_| self.epoch());
    }
}

#[test]
fn a_guest_that_the_link_can_follow_is_left_alone_however_far_it_is() {
    for far in [MS, 60 * MS, 300 * MS] {
        let mut road = Road::new(80, 40, 60, far);
        road.epochs(400);
        assert!(road.percents.iter().all(|&percent| percent == 0), "{far}: {:?}", road.percents);
    }
}

#[test]
fn a_guest_that_writes_thrice_what_is_carried_is_slowed_and_its_epochs_are_soon_there() {
    let mut road = Road::new(80, 10, 100, MS);
    road.epochs(40);
    road.writes = 300;
    road.epochs(40);
    road.most_late = Micros(0);
    road.percents.clear();
    road.epochs(400);
    let mean: u64 = road.percents.iter().map(|&percent| u64::from(percent)).sum::<u64>() / 400;
    assert!((60..80).contains(&mean), "{mean} % of its time");
    assert!(road.most_late < Micros(120 * MS), "{:?}; without a brake 300 ms", road.most_late);
    road.writes = 10;
    road.epochs(120);
    assert_eq!(road.brake.percent(), 0, "it is let go");
}

#[test]
fn no_brake_is_no_brake() {
    let mut road = Road::new(0, 300, 100, MS);
    road.epochs(100);
    assert_eq!(road.brake.percent(), 0);
    assert!(road.most_late >= Micros(250 * MS));
}

#[test]
fn one_late_acknowledgement_of_little_slows_nobody() {
    let mut road = Road::new(80, 2, 100, MS);
    road.epochs(20);
    road.free_at = road.now + Micros(400 * MS);
    road.epochs(60);
    assert!(road.percents.iter().all(|&percent| percent == 0));
}

#[test]
fn the_share_follows_from_what_is_carried() {
    assert_eq!(slowdown(0, 100, 100), 10, "a little less than is carried");
    assert_eq!(slowdown(0, 200, 100), 55);
    assert_eq!(slowdown(50, 200, 100), 78, "it had half of its time already");
    assert_eq!(slowdown(0, 50, 100), 0);
    assert_eq!(slowdown(0, 0, 0), 100);
    assert_eq!(slowdown(90, u64::MAX, 1), 100);
}

proptest! {
    /// Whatever is cut and acknowledged, in whatever times: no more than allowed, and no panic.
    #[test]
    fn the_bound_holds(
        most in 0u8..=100,
        steps in prop::collection::vec((any::<bool>(), 0u64..400 * MS, 0u64..100_000, 0u64..500 * MS), 1..120),
    ) {
        let mut now = Instant(1_000 * MS);
        let mut brake = Brake::new(most, now);
        let (mut sent, mut heard) = (0, 0);
        for (cuts, passed, pages, stood) in steps {
            now = now + Micros(passed);
            if cuts {
                sent += 1;
                brake.taken(now, Epoch(sent), now, (pages, Micros(stood)));
            } else if heard < sent {
                heard += 1 + pages % (sent - heard);
                brake.acknowledged(now, Epoch(heard));
            }
            prop_assert!(brake.percent() <= most.min(MOST));
        }
    }

    /// A link that is too slow, within what the brake may take: epochs do not stay late.
    #[test]
    fn epochs_are_not_late_for_ever(writes in 20u64..400, carries in 100u64..200, far in 0u64..80) {
        let mut road = Road::new(90, 4, carries, far * MS);
        road.epochs(20);
        road.writes = writes;
        road.epochs(200);
        road.most_late = Micros(0);
        road.epochs(400);
        let bound = Micros((2 * far + 150) * MS);
        prop_assert!(road.most_late <= bound, "{:?} of {:?}: {:?}", road.most_late, bound, road.percents);
    }
}
