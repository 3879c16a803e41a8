//! Machine code that comes when what it was made of is not there any more.

use crate::{addi, load, store};
use rv::{Compiler, Hotness, Made, Order, Parts};
use rvjit::Pieces;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Gives nothing before it may.
struct Late {
    pieces: Pieces,
    may: Arc<AtomicBool>,
    put: Arc<AtomicU32>,
}

impl Compiler for Late {
    fn order(&mut self, order: Order) -> bool {
        self.pieces.order(order)
    }

    fn made(&mut self) -> Option<Made> {
        self.may.load(Ordering::Relaxed).then(|| self.pieces.made()).flatten()
    }

    fn put(&mut self) -> bool {
        self.put.fetch_add(1, Ordering::Relaxed);
        self.pieces.put()
    }

    fn run(&mut self, page: usize, place: usize, parts: Parts<'_>) -> (u64, u64) {
        self.pieces.run(page, place, parts)
    }

    fn forget(&mut self, page: usize) {
        self.pieces.forget(page);
    }

    fn is_full(&self) -> bool {
        self.pieces.is_full()
    }

    fn clear(&mut self) {
        self.pieces.clear();
    }
}

/// A loop that adds to x6 20 times, then changes by how much, and goes round again.
fn program() -> [u32; 11] {
    let back_to_the_loop = 0xfe9f_f06f; // jal x0, -24
    let again = 0xfe03_9ce3; // bne x7, x0, -8
    let fetch = 40 << 20 | 5 << 15 | 2 << 12 | 8 << 7 | 0x03; // lw x8, 40(x5)
    [
        0x17 | 5 << 7,
        addi(9, 5, 12),
        addi(7, 0, 20),
        addi(6, 6, 1),
        addi(7, 7, -1),
        again,
        fetch,
        store(2, 8, 9),
        addi(7, 0, 20),
        back_to_the_loop,
        addi(6, 6, 2),
    ]
}

#[test]
fn code_of_what_was_overwritten_since_it_was_ordered_is_not_put_into_its_place() {
    let (mut plain, mut late) = (load(&program()), load(&program()));
    plain.run_plainly();
    let (may, put) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let pieces = Pieces::new().expect("a compiler for this host");
    let pieces = Late { pieces, may: may.clone(), put: put.clone() };
    late.compile_with(Box::new(pieces), Hotness { between: 1, seen: 1 });
    // The loop was ordered, and is another one now: ended at the last instruction of the second round's first pass.
    for until in [50, 70, 75] {
        plain.run(until);
        late.run(until);
    }
    assert_eq!((plain.hash(), plain.x(6)), (late.hash(), late.x(6)));
    assert_eq!(put.load(Ordering::Relaxed), 0);
    may.store(true, Ordering::Relaxed);
    for machine in [&mut plain, &mut late] {
        machine.run(1_000);
    }
    assert!(put.load(Ordering::Relaxed) > 0, "what is there now was ordered again");
    assert_eq!((plain.hash(), plain.x(6)), (late.hash(), late.x(6)));
}
