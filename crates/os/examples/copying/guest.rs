//! Owns the stand-in for a guest: a child of this program that writes a word to each page that it is told, and says how long
//! each write took.

use crate::Outcome;
use os::process_memory::mappings;
use os::{Child, Memory, PAGE_SIZE, Range, Spawn};
use std::fs::OpenOptions;
use std::io::{Read, Write, stdin, stdout};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// First argument of the child; the second is the number of its memory's descriptor.
pub const ROLE: &str = "guest";
/// Pages of its memory: 512 MiB.
pub const PAGES: u32 = 131_072;
const NAME: &str = "stand-in";

/// A guest that waits to be told.
pub struct Guest {
    child: Child,
    orders: ChildStdin,
    answers: ChildStdout,
    pub memory: Arc<Memory>,
    /// Where the child has its memory.
    pub range: Range,
}

impl Guest {
    pub fn start() -> Outcome<Self> {
        let memory = Memory::create(NAME, u64::from(PAGES) * PAGE_SIZE)?;
        let mut spawn = Spawn::new(std::env::current_exe()?);
        let number = spawn.inherit(memory.fd().try_clone_to_owned()?);
        spawn.arg(ROLE).arg(number.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn.spawn()?;
        let orders = child.stdin.take().ok_or("no standard input")?;
        let answers = child.stdout.take().ok_or("no standard output")?;
        let mut guest = Self { child, orders, answers, memory: Arc::new(memory), range: Range::new(0, 0) };
        // Both have touched all of it, as a guest that has used its memory and an agent that has copied it once.
        guest.write(&(0..PAGES).collect::<Vec<_>>())?;
        let touch = |page| guest.memory.read_at(u64::from(page) * PAGE_SIZE, &mut [0]);
        (0..PAGES).for_each(touch);
        let all = mappings(guest.pid())?;
        let found = all.iter().find(|mapping| mapping.path.contains(NAME));
        guest.range = found.ok_or("the guest has not mapped its memory")?.range;
        Ok(guest)
    }

    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Lets it write to these pages, in this order, and tells how long each write took.
    pub fn write(&mut self, pages: &[u32]) -> Outcome<Vec<Duration>> {
        self.begin(pages)?;
        self.end(pages.len())
    }

    /// It begins to write.
    pub fn begin(&mut self, pages: &[u32]) -> Outcome<()> {
        send(&mut self.orders, pages)
    }

    /// It has written so many pages.
    pub fn end(&mut self, count: usize) -> Outcome<Vec<Duration>> {
        let times = receive(&mut self.answers)?.ok_or("the guest has ended")?;
        assert_eq!(times.len(), count, "a time for each page");
        Ok(times.into_iter().map(|time| Duration::from_nanos(time.into())).collect())
    }
}

/// What the child does until its parent ends.
pub fn main() -> Outcome<()> {
    let number = std::env::args().nth(2).ok_or("which descriptor?")?;
    let file = OpenOptions::new().read(true).write(true).open(format!("/proc/self/fd/{number}"))?;
    let memory = Memory::from_fd(NAME, file.into())?;
    let (mut orders, mut answers) = (stdin().lock(), stdout().lock());
    let mut word = 0_u64;
    while let Some(pages) = receive(&mut orders)? {
        word += 1;
        let write = |page: &u32| {
            let start = Instant::now();
            memory.write_at(u64::from(*page) * PAGE_SIZE, &word.to_ne_bytes());
            u32::try_from(start.elapsed().as_nanos()).unwrap_or(u32::MAX)
        };
        let times: Vec<u32> = pages.iter().map(write).collect();
        send(&mut answers, &times)?;
    }
    Ok(())
}

/// A list goes as its length and its numbers, in one write.
fn send(to: &mut impl Write, numbers: &[u32]) -> Outcome<()> {
    let length = u32::try_from(numbers.len())?;
    let bytes: Vec<u8> = std::iter::once(&length).chain(numbers).flat_map(|n| n.to_ne_bytes()).collect();
    to.write_all(&bytes)?;
    Ok(to.flush()?)
}

/// None at the end of the stream.
fn receive(from: &mut impl Read) -> Outcome<Option<Vec<u32>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    }
    let mut bytes = vec![0; usize::try_from(u32::from_ne_bytes(length))? * 4];
    from.read_exact(&mut bytes)?;
    Ok(Some(bytes.as_chunks().0.iter().map(|number| u32::from_ne_bytes(*number)).collect()))
}

/// Which pages a guest writes.
#[derive(Clone, Copy)]
pub enum Pattern {
    /// One behind the other.
    Run,
    /// All over its memory.
    Scattered,
}

impl Pattern {
    pub const ALL: [Self; 2] = [Self::Run, Self::Scattered];

    pub fn name(self) -> &'static str {
        match self {
            Self::Run => "one run",
            Self::Scattered => "scattered",
        }
    }

    /// So many different pages, others in each round.
    pub fn pages(self, count: u32, round: u32) -> Vec<u32> {
        // Odd, so that a memory of a power of two is gone through whole before a page comes twice.
        let step = match self {
            Self::Run => 1,
            Self::Scattered => (round * 2 + 1).wrapping_mul(0x9e37_79b1),
        };
        let first = round.wrapping_mul(40_503);
        (0..count).map(|at| first.wrapping_add(at.wrapping_mul(step)) % PAGES).collect()
    }
}
