//! Two ends and the links between them, in virtual time, by seed: delay, links that swallow everything in one direction or
//! both, connections that are reset and made again, a consumer that is slow. What is judged: every frame once and in order;
//! bounds; that the stream goes on while any link carries, soon after another one does not.

use super::*;
use alloc::collections::VecDeque;
use alloc::vec;
use proptest::prelude::*;

const SLOTS: usize = 2;

fn slot(number: usize) -> Slot {
    Slot::new(number).unwrap()
}

fn limits() -> Limits {
    Limits { window: 64 << 10, ahead: 8 << 10, ..Limits::of(Micros::from_millis(300)) }
}

#[derive(Debug, Clone)]
enum Item {
    Frame(u64, u64),
    Receipt(Receipt, bool),
}

impl Item {
    fn size(&self) -> u64 {
        match self {
            Self::Frame(_, size) => *size,
            Self::Receipt(..) => PROBE_LEN,
        }
    }
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    carried: VecDeque<(Instant, Item)>,
    /// Nothing passes; what is in it stays in it.
    stuck: bool,
    delay: u64,
}

/// As much as a socket takes.
const PIPE: u64 = 32 << 10;

impl Pipe {
    fn has_room(&self) -> bool {
        self.carried.iter().map(|(_, item)| item.size()).sum::<u64>() < PIPE
    }
}

struct World {
    now: Instant,
    ends: [Paths<(u64, u64), u64>; 2],
    /// By link, then by the end that sends.
    pipes: [[Pipe; 2]; SLOTS],
    joined: [bool; SLOTS],
    pushed: [u64; 2],
    delivered: [u64; 2],
    /// The longest time without a delivery at the second end while something was to be delivered.
    gap: u64,
    last: Instant,
    random: u64,
    consumes: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let ends = [Paths::new(limits(), 0), Paths::new(limits(), 0)];
        let mut world = Self {
            now: Instant(1_000_000),
            ends,
            pipes: Default::default(),
            joined: [false; SLOTS],
            pushed: [0; 2],
            delivered: [0; 2],
            gap: 0,
            last: Instant(1_000_000),
            random: seed | 1,
            consumes: true,
        };
        (0..SLOTS).for_each(|link| world.connect(link));
        world
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn connect(&mut self, link: usize) {
        if self.joined[link] {
            return;
        }
        self.joined[link] = true;
        for end in 0..2 {
            let delay = 50 + self.roll(2_000);
            self.pipes[link][end].carried.clear();
            self.pipes[link][end].delay = delay;
            self.ends[end].join(self.now, slot(link));
        }
    }

    fn reset(&mut self, link: usize) {
        self.joined[link] = false;
        for end in 0..2 {
            self.pipes[link][end].carried.clear();
            self.ends[end].gone(slot(link));
        }
    }

    fn push(&mut self, end: usize, size: u64) {
        if self.ends[end].has_room(size) {
            let seq = self.pushed[end];
            self.ends[end].push(size, (seq, size));
            self.pushed[end] += 1;
        }
    }

    /// Half a millisecond in which everybody does what there is to do.
    fn step(&mut self) {
        self.now = self.now + Micros(500);
        for end in 0..2 {
            self.ends[end].judge(self.now);
            for link in 0..SLOTS {
                while self.joined[link] && self.pipes[link][end].has_room() {
                    let Some(give) = self.ends[end].pull(self.now, slot(link)) else { break };
                    let item = match give {
                        Give::Frame((seq, size)) => Item::Frame(seq, size),
                        Give::Receipt(receipt) => Item::Receipt(receipt, false),
                        Give::Probe(receipt) => Item::Receipt(receipt, true),
                    };
                    let pipe = &mut self.pipes[link][end];
                    let at = self.now + Micros(pipe.delay);
                    pipe.carried.push_back((at, item));
                }
                self.take(link, end);
            }
            for news in self.ends[end].news() {
                if let News::GiveUp(slot) = news {
                    self.reset(slot.number());
                }
            }
            self.deliver(end);
            let (kept, held) = self.ends[end].held();
            assert!(kept <= limits().window && held <= limits().window, "{kept} {held}");
        }
    }

    fn take(&mut self, link: usize, from: usize) {
        let to = 1 - from;
        while !self.pipes[link][from].stuck
            && let Some((at, _)) = self.pipes[link][from].carried.front()
            && *at <= self.now
            && let Some((_, item)) = self.pipes[link][from].carried.pop_front()
        {
            match item {
                Item::Frame(seq, size) => {
                    self.ends[to].arrived(self.now, slot(link), size);
                    self.ends[to].frame(self.now, seq, size, seq).unwrap();
                }
                Item::Receipt(receipt, probe) => {
                    if probe {
                        self.ends[to].arrived(self.now, slot(link), PROBE_LEN);
                    }
                    self.ends[to].receipt(self.now, slot(link), receipt).unwrap();
                }
            }
        }
    }

    fn deliver(&mut self, end: usize) {
        while self.consumes
            && let Some(seq) = self.ends[end].deliver()
        {
            assert_eq!(seq, self.delivered[end], "in order, each once");
            self.delivered[end] += 1;
            self.ends[end].consumed(self.now);
            if end == 1 {
                self.last = self.now;
            }
        }
        if end == 1 {
            self.gap = self.gap.max(self.now.since(self.last).0);
        }
    }

    /// Steps with a stream of small frames in both directions and bulk in one.
    fn busy(&mut self, steps: u64) {
        for step in 0..steps {
            if step % 20 == 0 {
                self.push(0, 100);
                self.push(1, 100);
            }
            let size = 5_000 + self.roll(10_000);
            self.push(0, size);
            self.step();
        }
    }

    fn finish(&mut self) {
        for _ in 0..4_000 {
            self.step();
        }
        assert_eq!((self.delivered[1], self.delivered[0]), (self.pushed[0], self.pushed[1]));
        assert!(self.ends.iter().all(Paths::all_came));
    }
}

fn stick(world: &mut World, link: usize, both: [bool; 2]) {
    (0..2).for_each(|end| world.pipes[link][end].stuck = both[end]);
}

#[test]
fn the_loss_of_a_path_stops_the_stream_for_little_more_than_the_patience() {
    // Which path; swallows what goes, what comes, or both.
    for (link, dead) in
        [(0, [true, true]), (0, [true, false]), (0, [false, true]), (1, [true, true]), (1, [false, true])]
    {
        let mut world = World::new(7);
        world.busy(2_000);
        assert!(world.gap < 20_000, "{}", world.gap);
        stick(&mut world, link, dead);
        world.busy(2_000);
        let most = limits().patience.0 + limits().probe().0;
        assert!(world.gap <= most, "link {link}, {dead:?}: {} of {most} µs", world.gap);
        assert_eq!(world.ends[0].active(), Some(slot(1 - link)), "{dead:?}");
        world.finish();
    }
}

#[test]
fn a_silent_path_is_told_given_up_and_told_when_it_is_back() {
    let mut world = World::new(3);
    world.busy(500);
    stick(&mut world, 0, [true, true]);
    let mut told = Vec::new();
    for _ in 0..4_000 {
        world.now = world.now + Micros(500);
        world.ends[0].judge(world.now);
        let news = world.ends[0].news();
        told.extend(news);
        for link in 0..SLOTS {
            while world.pipes[link][0].has_room() && world.ends[0].pull(world.now, slot(link)).is_some() {}
        }
        let (sent, received) = (world.ends[0].lanes[1].sent, world.ends[0].lanes[1].told.received);
        let receipt = Receipt { received: received.min(1), consumed: 0, arrived: sent };
        world.ends[0].receipt(world.now, slot(1), receipt).unwrap();
    }
    assert!(
        matches!(told[..], [News::Silent(silent, _), News::GiveUp(up)] if silent == slot(0) && up == silent)
    );
    world.ends[0].gone(slot(0));
    assert_eq!(world.ends[0].news(), []);
    world.ends[0].join(world.now, slot(0));
    assert_eq!(world.ends[0].news(), [News::Back(slot(0))]);
}

#[test]
fn without_any_path_heard_the_session_keeps_the_connections_it_has() {
    let mut world = World::new(5);
    world.busy(500);
    (0..SLOTS).for_each(|link| stick(&mut world, link, [true, true]));
    world.busy(4_000);
    // More than `give_up`, and nobody was given up.
    assert_eq!(world.joined, [true; SLOTS]);
    assert!(world.ends.iter().all(|end| end.lanes.iter().take(SLOTS).all(|lane| lane.silent.is_some())));
    (0..SLOTS).for_each(|link| stick(&mut world, link, [false, false]));
    world.finish();
}

#[test]
fn a_slow_consumer_is_no_silent_path() {
    let mut world = World::new(11);
    world.consumes = false;
    world.busy(3_000);
    assert!(world.ends.iter().all(|end| end.lanes.iter().take(SLOTS).all(|lane| lane.silent.is_none())));
    assert!(world.ends[0].out.in_flight() <= limits().window);
    world.consumes = true;
    world.finish();
}

#[test]
fn bulk_goes_by_one_path_only() {
    let mut world = World::new(13);
    for _ in 0..200 {
        world.push(0, 6_000);
        world.step();
    }
    let sent = |link| world.ends[0].view(slot(link)).sent;
    assert!(sent(0) > 500_000 && sent(1) < 60_000, "{} {}", sent(0), sent(1));
}

#[test]
fn a_peer_that_answers_what_was_not_sent_or_sends_more_than_it_may_is_refused() {
    let mut paths: Paths<u64, u64> = Paths::new(limits(), 0);
    let now = Instant(1);
    paths.join(now, slot(0));
    paths.push(100, 0);
    let of = |received, consumed, arrived| Receipt { received, consumed, arrived };
    for bad in [of(2, 0, 0), of(0, 1, 0), of(1, 1, 101), of(u64::MAX, 0, 0)] {
        assert_eq!(paths.receipt(now, slot(0), bad), Err(PathError::NeverSent), "{bad:?}");
    }
    assert_eq!(paths.frame(now, 5, 60 << 10, 5), Ok(true));
    assert_eq!(paths.frame(now, 5, 60 << 10, 5), Ok(false));
    assert!(matches!(paths.frame(now, 6, 60 << 10, 6), Err(PathError::Ahead(_))));
}

#[derive(Debug, Clone)]
enum Blow {
    Stick(usize, [bool; 2]),
    Free(usize),
    Reset(usize),
    Connect(usize),
    Slow(bool),
    Nothing,
}

fn blows() -> impl Strategy<Value = Vec<(Blow, u64)>> {
    let link = 0..SLOTS;
    let blow = prop_oneof![
        (link.clone(), any::<[bool; 2]>()).prop_map(|(link, both)| Blow::Stick(link, both)),
        link.clone().prop_map(Blow::Free),
        link.clone().prop_map(Blow::Reset),
        link.prop_map(Blow::Connect),
        any::<bool>().prop_map(Blow::Slow),
        Just(Blow::Nothing),
    ];
    prop::collection::vec((blow, 1..600u64), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_happens_to_the_links_the_stream_is_whole_and_in_order(seed in any::<u64>(), blows in blows()) {
        let mut world = World::new(seed);
        for (blow, steps) in blows {
            match blow {
                Blow::Stick(link, both) => stick(&mut world, link, both),
                Blow::Free(link) => stick(&mut world, link, [false; 2]),
                Blow::Reset(link) => world.reset(link),
                Blow::Connect(link) => world.connect(link),
                Blow::Slow(slow) => world.consumes = !slow,
                Blow::Nothing => {}
            }
            world.busy(steps);
        }
        // One link is enough. An end that has not heard of it yet may give its connection up for another that has just been made:
        // whoever dials makes it again.
        world.consumes = true;
        let good = usize::from(seed % 2 == 0);
        stick(&mut world, good, [false; 2]);
        for _ in 0..4_000 {
            world.connect(good);
            world.step();
        }
        world.finish();
    }

    #[test]
    fn any_receipts_and_frames_of_a_peer_are_taken_or_refused(
        said in prop::collection::vec((0..SLOTS, any::<[u8; 4]>()), 0..60)
    ) {
        let mut paths: Paths<u64, u64> = Paths::new(limits(), 0);
        let mut now = Instant(1);
        paths.join(now, slot(0));
        for (link, [what, a, b, c]) in said {
            now = now + Micros(u64::from(c) * 1_000);
            let (a, b, c) = (u64::from(a % 16), u64::from(b % 16), u64::from(c));
            match what % 6 {
                0 => drop(paths.receipt(now, slot(link), Receipt { received: a, consumed: b, arrived: c })),
                1 => drop(paths.frame(now, a, b * 4_096, a)),
                2 => paths.join(now, slot(link)),
                3 => paths.gone(slot(link)),
                4 if paths.has_room(b * 1_000 + 1) => paths.push(b * 1_000 + 1, a),
                _ => drop(paths.deliver().map(|_| paths.consumed(now))),
            }
            paths.judge(now);
            while paths.pull(now, slot(link)).is_some() {}
            let (kept, held) = paths.held();
            prop_assert!(kept <= limits().window && held <= limits().window);
        }
    }
}

#[test]
fn nothing_is_pulled_from_a_path_that_is_not_there() {
    let mut paths: Paths<u64, u64> = Paths::new(limits(), 0);
    assert_eq!(paths.pull(Instant(5_000_000), slot(1)), None);
    assert!(!paths.has_room(1) && !paths.any());
    assert_eq!(paths.active(), None);
    assert_eq!(vec![Slot::new(MAX_PATHS)], [None]);
}
