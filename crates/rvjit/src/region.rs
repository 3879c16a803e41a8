//! Owns which instructions become one piece of machine code, and how they hang together.
//!
//! A region is what can be reached from a place without leaving its page, as far as it was executed before. It is cut
//! into blocks: straight runs, of which only the first instruction is jumped to. A block that is entered from one other
//! block only is a *branch* of that one: both know the same registers. All others are *roots*.

use rv::{Kind, Op, Ops};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Instructions of a region at most.
const INSTRUCTIONS: usize = 200;
/// Instructions on a way from a root to the next one at most.
const WAY: u64 = 64;
/// A region as large as this ends where another piece begins; a smaller one takes in what is there.
const LARGE: usize = 64;
/// Calls whose returns are looked for in a region.
const CALLS: usize = 2;
/// Registers that a loop keeps in the host's at most.
const CARRIED: usize = 8;

/// How a block ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// By going on at a place.
    To(usize),
    /// By a branch to the first place, or else to the second.
    Branch(usize, usize),
    /// By a branch out of the page, or else to a place.
    Far(usize),
    /// By a jump out of the page or to an address in a register.
    Away,
    /// Before an instruction that is the interpreter's.
    Slow(usize),
    /// Behind the last instruction of the page.
    Behind,
}

/// A straight run of instructions.
#[derive(Debug)]
pub(crate) struct Block {
    /// Its instructions with their places; with the branch or jump at its end.
    pub ops: Vec<(usize, Op)>,
    pub end: End,
    /// For a return, where the calls of the region go on.
    pub returns: Vec<usize>,
    /// Whether it can be entered from several others.
    pub root: bool,
}

impl Block {
    /// The places of the page to which it leads.
    pub fn next(&self) -> impl Iterator<Item = usize> {
        let (first, second) = match self.end {
            End::To(to) | End::Far(to) => (Some(to), None),
            End::Branch(to, or) => (Some(to), Some(or)),
            End::Away | End::Slow(_) | End::Behind => (None, None),
        };
        first.into_iter().chain(second).chain(self.returns.iter().copied())
    }
}

/// The blocks of a region by their places.
#[derive(Debug)]
pub(crate) struct Region {
    pub blocks: BTreeMap<usize, Block>,
}

/// What stands behind an instruction.
pub(crate) fn behind(place: usize, op: &Op) -> usize {
    if op.kind.is_short() { place + 1 } else { place + 2 }
}

/// Where an instruction leads, if it is one that ends a block.
fn end_of(place: usize, op: &Op) -> Option<End> {
    let to = op.immediate as usize;
    Some(match op.kind.long() {
        Kind::Beq4 | Kind::Bne4 | Kind::Blt | Kind::Bge | Kind::Bltu | Kind::Bgeu => {
            End::Branch(to, behind(place, op))
        }
        Kind::BranchFar4 => End::Far(behind(place, op)),
        Kind::J4 | Kind::Jal => End::To(to),
        Kind::JFar4 | Kind::JalFar | Kind::Jr4 | Kind::Jalr4 => End::Away,
        _ => return None,
    })
}

/// Whether machine code is made of an instruction.
fn is_known(op: &Op) -> bool {
    !matches!(op.kind, Kind::Undecoded | Kind::Slow | Kind::PageEnd | Kind::Compiled)
}

impl Region {
    /// The region that begins at a place; none if there is nothing in it.
    pub fn new(ops: &Ops, entry: usize, entries: &[usize]) -> Option<Region> {
        let Reach { known, leaders, calls } = reach(ops, entry, entries);
        if known.is_empty() {
            return None;
        }
        let mut blocks: BTreeMap<usize, Block> = BTreeMap::new();
        for &leader in leaders.iter().filter(|leader| known.contains(leader)) {
            blocks.insert(leader, block(ops, &known, &leaders, leader));
        }
        for block in blocks.values_mut().filter(|block| block.end == End::Away) {
            let returns = block.ops.last().is_some_and(|(_, op)| is_return(op));
            block.returns = if returns { calls.clone() } else { Vec::new() };
        }
        let mut region = Region { blocks };
        region.find_roots(entry);
        Some(region)
    }

    /// Roots are the entry, what is entered from several blocks, and what is too far from its root.
    fn find_roots(&mut self, entry: usize) {
        let mut entered: BTreeMap<usize, u32> = BTreeMap::from([(entry, 2)]);
        for to in self.blocks.values().flat_map(Block::next) {
            *entered.entry(to).or_default() += 1;
        }
        for (place, block) in &mut self.blocks {
            block.root = entered.get(place).is_some_and(|&count| count > 1);
        }
        let mut roots: VecDeque<usize> =
            self.blocks.iter().filter(|(_, block)| block.root).map(|(&place, _)| place).collect();
        while let Some(root) = roots.pop_front() {
            let mut open = vec![(root, 0)];
            while let Some((place, before)) = open.pop() {
                let block = &self.blocks[&place];
                let count = before + block.ops.len() as u64;
                let next: Vec<usize> = block.next().collect();
                for to in next {
                    let Some(block) = self.blocks.get_mut(&to).filter(|block| !block.root) else { continue };
                    if count + block.ops.len() as u64 > WAY {
                        block.root = true;
                        roots.push_back(to);
                    } else {
                        open.push((to, count));
                    }
                }
            }
        }
    }

    /// The registers that a loop that begins at a root keeps in the host's: those that it reads before it writes them.
    pub fn carried(&self, root: usize) -> Vec<u8> {
        let leads_back = |(_, block): (&usize, &Block)| {
            let last = block.ops.last().map_or(0, |(place, _)| *place);
            last >= root && block.next().any(|to| to == root)
        };
        if !self.blocks.iter().any(leads_back) {
            return Vec::new();
        }
        let mut carried = Vec::new();
        let mut open = vec![(root, 1_u32)];
        while let Some((place, mut known)) = open.pop() {
            let block = &self.blocks[&place];
            for (_, op) in &block.ops {
                let read = reads(op);
                carried.extend(read.iter().filter(|&&register| known >> register & 1 == 0));
                known |= 1 << read[0] | 1 << read[1];
                if writes(op) {
                    known |= 1 << op.rd;
                }
            }
            let next = block.next().filter(|to| self.blocks.get(to).is_some_and(|block| !block.root));
            open.extend(next.map(|to| (to, known)));
        }
        carried.sort_unstable();
        carried.dedup();
        carried.truncate(CARRIED);
        carried
    }

    /// Instructions on the longest way from a block to the next root or out.
    pub fn longest(&self, place: usize) -> u64 {
        let block = &self.blocks[&place];
        let rest = block.next().filter(|to| self.blocks.get(to).is_some_and(|block| !block.root));
        block.ops.len() as u64 + rest.map(|to| self.longest(to)).max().unwrap_or(0)
    }
}

/// The registers that an instruction reads.
fn reads(op: &Op) -> [u8; 2] {
    match op.kind.long() {
        Kind::Nop4 | Kind::Li4 | Kind::Auipc | Kind::J4 | Kind::Jal | Kind::JFar4 | Kind::JalFar => [0; 2],
        Kind::Mv4 => [op.rs2, 0],
        Kind::Addi4 | Kind::Andi4 | Kind::Xori | Kind::Ori | Kind::Slti | Kind::Sltiu | Kind::Addiw4 => {
            [op.rs1, 0]
        }
        Kind::Slli4 | Kind::Srli4 | Kind::Srai4 | Kind::Slliw | Kind::Srliw | Kind::Sraiw => [op.rs1, 0],
        Kind::Jr4 | Kind::Jalr4 => [op.rs1, 0],
        Kind::Lb | Kind::Lh | Kind::Lw4 | Kind::Ld4 | Kind::Lbu | Kind::Lhu | Kind::Lwu => [op.rs1, 0],
        _ => [op.rs1, op.rs2],
    }
}

/// Whether an instruction writes the register `rd`.
fn writes(op: &Op) -> bool {
    !matches!(op.kind.long(), Kind::BranchFar4)
}

/// Whether an instruction returns from a call.
fn is_return(op: &Op) -> bool {
    op.kind.long() == Kind::Jr4 && op.rs1 == 1 && op.immediate == 0
}

/// What is reached from a place.
struct Reach {
    known: BTreeSet<usize>,
    /// Places at which blocks begin.
    leaders: BTreeSet<usize>,
    /// Places at which calls within the page go on.
    calls: Vec<usize>,
}

fn reach(ops: &Ops, entry: usize, entries: &[usize]) -> Reach {
    let mut reach = Reach { known: BTreeSet::new(), leaders: BTreeSet::from([entry]), calls: Vec::new() };
    let mut open = VecDeque::from([entry]);
    while let Some(mut place) = open.pop_front() {
        let mut straight = 0;
        while let Some(op) = ops.get(place).filter(|op| is_known(op)) {
            let ends = reach.known.len() >= LARGE && entries.contains(&place);
            if ends || reach.known.len() == INSTRUCTIONS || !reach.known.insert(place) {
                break;
            }
            // A long run is cut, so that each part of it fits into a way.
            if straight == WAY {
                reach.leaders.insert(place);
                straight = 0;
            }
            straight += 1;
            let behind = behind(place, op);
            if op.kind == Kind::Jal
                && op.rd == 1
                && reach.calls.len() < CALLS
                && ops.get(behind).is_some_and(is_known)
            {
                reach.calls.push(behind);
                reach.leaders.insert(behind);
                open.push_back(behind);
            }
            let next = match end_of(place, op) {
                None => {
                    place = behind;
                    continue;
                }
                Some(End::Branch(to, or)) => [Some(or), Some(to)],
                Some(End::To(to) | End::Far(to)) => [Some(to), None],
                Some(_) => [None, None],
            };
            reach.leaders.extend(next.into_iter().flatten());
            open.extend(next.into_iter().flatten());
            break;
        }
    }
    reach
}

fn block(ops: &Ops, known: &BTreeSet<usize>, leaders: &BTreeSet<usize>, leader: usize) -> Block {
    let mut block = Block { ops: Vec::new(), end: End::Behind, returns: Vec::new(), root: false };
    let mut place = leader;
    loop {
        let Some(op) = ops.get(place) else { return block };
        block.end = match op.kind {
            Kind::PageEnd => return block,
            Kind::Slow => End::Slow(place),
            _ if !known.contains(&place) => End::To(place),
            _ if place != leader && leaders.contains(&place) => End::To(place),
            _ => {
                block.ops.push((place, *op));
                match end_of(place, op) {
                    Some(end) => end,
                    None => {
                        place = behind(place, op);
                        continue;
                    }
                }
            }
        };
        return block;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOP: Op = Op { kind: Kind::Nop4, rd: 0, rs1: 0, rs2: 0, immediate: 0 };

    /// A page with these instructions from its beginning on, all of 4 bytes.
    fn page(all: &[Op]) -> Box<Ops> {
        let mut page: Box<Ops> =
            vec![Op { kind: Kind::Undecoded, ..NOP }; rv::PLACES + 1].try_into().unwrap();
        page[rv::PLACES].kind = Kind::PageEnd;
        for (number, op) in all.iter().enumerate() {
            page[2 * number] = *op;
        }
        page
    }

    fn op(kind: Kind, rd: u8, rs1: u8, rs2: u8, immediate: i32) -> Op {
        Op { kind, rd, rs1, rs2, immediate }
    }

    #[test]
    fn a_loop_is_one_block_that_keeps_what_it_reads() {
        let ops = page(&[op(Kind::Add4, 5, 5, 6, 0), op(Kind::Bne4, 0, 5, 7, 0), op(Kind::Slow, 0, 0, 0, 0)]);
        let region = Region::new(&ops, 0, &[]).unwrap();
        assert_eq!(region.blocks.keys().copied().collect::<Vec<_>>(), [0]);
        assert_eq!((region.blocks[&0].end, region.blocks[&0].root), (End::Branch(0, 4), true));
        assert_eq!((region.carried(0), region.longest(0)), (vec![5, 6, 7], 2));
    }

    #[test]
    fn what_was_never_executed_is_left_out() {
        let ops = page(&[op(Kind::Beq4, 0, 5, 6, 100), NOP, op(Kind::Slow, 0, 0, 0, 0)]);
        let region = Region::new(&ops, 0, &[]).unwrap();
        assert_eq!(region.blocks.keys().copied().collect::<Vec<_>>(), [0, 2]);
        assert_eq!((region.blocks[&2].end, region.blocks[&2].root), (End::Slow(4), false));
        assert!(Region::new(&ops, 4, &[]).is_none(), "nothing but what is the interpreter's");
        assert!(Region::new(&ops, 100, &[]).is_none());
    }

    #[test]
    fn a_call_within_the_page_comes_back_within_the_region() {
        // A call of what stands behind an endless jump; that returns.
        let ops =
            page(&[op(Kind::Jal, 1, 0, 0, 6), NOP, op(Kind::J4, 0, 0, 0, 0), op(Kind::Jr4, 0, 1, 0, 0)]);
        let region = Region::new(&ops, 0, &[]).unwrap();
        assert_eq!(region.blocks[&6].returns, [2]);
        assert!(!region.blocks[&2].root && region.blocks[&0].root);
        assert_eq!(region.longest(0), 4);
    }

    #[test]
    fn no_way_is_longer_than_allowed_and_the_page_s_end_is_one() {
        let ops = page(&[NOP; rv::PLACES / 2]);
        let region = Region::new(&ops, 0, &[]).unwrap();
        assert_eq!(region.blocks.values().map(|block| block.ops.len()).sum::<usize>(), INSTRUCTIONS);
        for (&place, _) in region.blocks.iter().filter(|(_, block)| block.root) {
            assert!(region.longest(place) <= WAY, "{place}");
        }
        let last = Region::new(&ops, rv::PLACES - 2, &[]).unwrap();
        assert_eq!(last.blocks[&(rv::PLACES - 2)].end, End::Behind);
    }

    #[test]
    fn a_large_region_ends_where_another_piece_begins() {
        let ops = page(&[NOP; 100]);
        let region = Region::new(&ops, 0, &[20, 160]).unwrap();
        let count: usize = region.blocks.values().map(|block| block.ops.len()).sum();
        assert_eq!(count, 80);
    }
}
