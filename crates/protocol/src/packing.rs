//! Owns whether pages are packed before they are sent, where the aim is that they are there soon.
//!
//! Packing spends time of the thread that sends, to put fewer bytes on the wire. On a link that carries a byte sooner than it
//! is packed away that is a loss: a page is there sooner as it is, and both hosts have more of their processors left.
//! Which of the two a link is cannot be told from its name. So both ways are measured while they are used, and the cheaper one
//! is taken: for each byte of memory, the time to make the frame and the time until the connection has taken it. A
//! connection takes what it can carry, or what the other end can apply; either way it is what packing must gain upon.
//!
//! The newer way of a few batches counts most, and while pages go as they are some are packed all the same, to see
//! whether that has become the better way.

use crate::time::Micros;

/// Each batch takes a quarter from what was measured before it.
const FADES: u64 = 4;
/// While pages go as they are this part of the time is spent on packing some all the same.
const TRIES: u64 = 32;
/// Batches with fewer bytes of memory tell of the clock more than of the link.
const TELLING: u64 = 128 << 10;

/// What a batch of pages took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// They were packed.
    pub packed: bool,
    /// Bytes of its pages, without those that are zero: they are never sent.
    pub memory: u64,
    /// Bytes of the frame.
    pub body: u64,
    /// To make the frame.
    pub encoding: Micros,
    /// Until the connection had taken it.
    pub sending: Micros,
}

/// Time for bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Speed {
    bytes: u64,
    us: u64,
}

impl Speed {
    fn learn(&mut self, bytes: u64, time: Micros) {
        self.bytes = kept(self.bytes).saturating_add(bytes);
        self.us = kept(self.us).saturating_add(time.0);
    }

    /// Picoseconds a byte: whole numbers that are fine enough.
    fn a_byte(self) -> Option<u64> {
        self.us.saturating_mul(1_000_000).checked_div(self.bytes)
    }
}

fn kept(measured: u64) -> u64 {
    measured - measured / FADES
}

/// The policy of one connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packing {
    plain: Speed,
    packing: Speed,
    wire: Speed,
    /// Bytes of frames and of the memory in them, of packed batches.
    body: u64,
    memory: u64,
    /// Batches that went as they are since one was packed.
    since_packed: u64,
}

impl Packing {
    /// Whether the next batch is packed. Nothing is known at first: then it is, and the one behind it is not.
    #[must_use]
    pub fn packs(&self) -> bool {
        let (Some(packing), Some(wire)) = (self.packing.a_byte(), self.wire.a_byte()) else { return true };
        let Some(plain) = self.plain.a_byte() else { return false };
        let shorter = wire.saturating_mul(self.body).checked_div(self.memory).unwrap_or(wire);
        let (packed, as_it_is) = (packing.saturating_add(shorter), plain.saturating_add(wire));
        let tries = as_it_is.saturating_mul(self.since_packed) >= packed.saturating_mul(TRIES);
        packed <= as_it_is || tries
    }

    /// A batch was sent.
    pub fn learn(&mut self, batch: Batch) {
        if batch.memory < TELLING {
            return;
        }
        self.wire.learn(batch.body, batch.sending);
        if batch.packed {
            self.packing.learn(batch.memory, batch.encoding);
            self.body = kept(self.body).saturating_add(batch.body);
            self.memory = kept(self.memory).saturating_add(batch.memory);
            self.since_packed = 0;
        } else {
            self.plain.learn(batch.memory, batch.encoding);
            self.since_packed = self.since_packed.saturating_add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MEMORY: u64 = 1 << 20;

    /// A link that carries so many MB a second, and a packer that does so many and leaves so much, in percent.
    struct World {
        link: u64,
        packer: u64,
        leaves: u64,
    }

    impl World {
        fn batch(&self, packed: bool) -> Batch {
            let body = if packed { MEMORY * self.leaves / 100 } else { MEMORY };
            let encoding = if packed { MEMORY / self.packer } else { MEMORY / 10_000 };
            Batch {
                packed,
                memory: MEMORY,
                body,
                encoding: Micros(encoding),
                sending: Micros(body / self.link),
            }
        }

        fn us(&self, packed: bool) -> u64 {
            let batch = self.batch(packed);
            batch.encoding.0 + batch.sending.0
        }

        /// How many of so many batches were packed.
        fn run(&self, policy: &mut Packing, batches: u32) -> u32 {
            (0..batches)
                .map(|_| {
                    let packed = policy.packs();
                    policy.learn(self.batch(packed));
                    u32::from(packed)
                })
                .sum()
        }
    }

    #[test]
    fn a_slow_link_gets_packed_pages_and_a_fast_one_gets_them_as_they_are() {
        let slow = World { link: 110, packer: 700, leaves: 45 };
        assert!(slow.run(&mut Packing::default(), 200) >= 198);
        let fast = World { link: 2_000, packer: 700, leaves: 45 };
        assert!(fast.run(&mut Packing::default(), 200) <= 6);
    }

    #[test]
    fn pages_that_do_not_pack_are_not_packed_on_any_link() {
        let slow = World { link: 110, packer: 700, leaves: 100 };
        assert!(slow.run(&mut Packing::default(), 200) <= 6);
    }

    #[test]
    fn a_link_that_changes_is_followed() {
        let mut policy = Packing::default();
        let slow = World { link: 110, packer: 700, leaves: 45 };
        let fast = World { link: 2_000, packer: 700, leaves: 45 };
        slow.run(&mut policy, 100);
        assert!(fast.run(&mut policy, 100) <= 20);
        assert!(slow.run(&mut policy, 100) >= 80);
    }

    #[test]
    fn pages_that_pack_better_than_those_before_are_found_out() {
        let mut policy = Packing::default();
        World { link: 110, packer: 700, leaves: 100 }.run(&mut policy, 100);
        let packed = World { link: 110, packer: 700, leaves: 10 }.run(&mut policy, 400);
        assert!(packed >= 250, "{packed}");
    }

    #[test]
    fn a_few_pages_tell_nothing() {
        let mut policy = Packing::default();
        policy.learn(Batch { memory: 4_096, ..World { link: 9_000, packer: 1, leaves: 1 }.batch(true) });
        assert_eq!(policy, Packing::default());
    }

    proptest! {
        /// Whatever link and packer: in the long run little is lost against who knows both.
        #[test]
        fn it_costs_little_more_than_the_better_way(link in 50u64..5_000, packer in 100u64..3_000, leaves in 5u64..=100) {
            let world = World { link, packer, leaves };
            let mut policy = Packing::default();
            let packed = u64::from(world.run(&mut policy, 1_000));
            let took = packed * world.us(true) + (1_000 - packed) * world.us(false);
            let best = 1_000 * world.us(true).min(world.us(false));
            prop_assert!(took <= best + best / 5, "{took} µs, at best {best}");
        }

        #[test]
        fn no_measurement_makes_it_panic(batches in prop::collection::vec(any::<(bool, u64, u64, u64, u64)>(), 0..20)) {
            let mut policy = Packing::default();
            for (packed, memory, body, encoding, sending) in batches {
                policy.learn(Batch { packed, memory, body, encoding: Micros(encoding), sending: Micros(sending) });
                let _ = policy.packs();
            }
        }
    }
}
