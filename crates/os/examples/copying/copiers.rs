//! Owns threads that copy pages, and sleep between: the calling one and some beside it.

use crate::Outcome;
use os::process_memory::ProcessMemory;
use os::{Memory, PAGE_SIZE, PageBuffer, Range};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

const PAGE: usize = PAGE_SIZE as usize;

/// How pages of the guest are reached, as in the engine's view of QEMU.
#[derive(Clone)]
pub enum Source {
    /// Main memory: mapped here too.
    Shared(Arc<Memory>),
    /// Everything else: by the kernel, from an address of its process.
    Process(Arc<ProcessMemory>, u64),
}

impl Source {
    fn copy(&self, pages: &[u32], buffer: &mut PageBuffer) -> Outcome<()> {
        let into = &mut buffer.bytes_mut()[..pages.len() * PAGE];
        let offset = |page: &u32| u64::from(*page) * PAGE_SIZE;
        match self {
            Self::Shared(memory) => {
                memory.copy_pages_out(&pages.iter().map(offset).collect::<Vec<_>>(), into);
                Ok(())
            }
            Self::Process(memory, start) => {
                let range = |page| Range::new(start + offset(page), PAGE_SIZE);
                Ok(memory.read_ranges(&pages.iter().map(range).collect::<Vec<_>>(), into)?)
            }
        }
    }
}

/// Pages to copy, and the buffer they go to; comes back when it is done.
struct Job {
    pages: Vec<u32>,
    buffer: PageBuffer,
}

struct Beside {
    jobs: Sender<Job>,
    done: Receiver<Outcome<Job>>,
    /// Where it copies to, while it has nothing to do.
    buffer: Option<PageBuffer>,
}

impl Beside {
    fn start(source: Source, most: usize) -> Outcome<Self> {
        let (jobs, queue) = channel::<Job>();
        let (tell, done) = channel();
        std::thread::spawn(move || {
            // Not allowed: that was said of the main thread.
            let _ = os::sched::raise_current_thread();
            for mut job in queue {
                let copied = source.copy(&job.pages, &mut job.buffer);
                if tell.send(copied.map(|()| job)).is_err() {
                    return;
                }
            }
        });
        Ok(Self { jobs, done, buffer: Some(PageBuffer::new(most)?) })
    }
}

/// As many threads as asked, and room for so many pages at most.
pub struct Copiers {
    source: Source,
    buffer: PageBuffer,
    others: Vec<Beside>,
    /// So many pages more than the others the calling thread takes.
    more: usize,
}

impl Copiers {
    pub fn start(source: Source, threads: usize, (most, more): (u32, usize)) -> Outcome<Self> {
        let most = most as usize;
        let other = |_| Beside::start(source.clone(), most.div_ceil(threads));
        let others = (1..threads).map(other).collect::<Outcome<_>>()?;
        Ok(Self { buffer: PageBuffer::new(most)?, source, others, more })
    }

    /// Copies the pages, each thread its share of them.
    pub fn copy(&mut self, pages: &[u32]) -> Outcome<()> {
        let each = pages.len().saturating_sub(self.more) / (self.others.len() + 1);
        let (mine, theirs) = pages.split_at(pages.len() - each * self.others.len());
        for (other, share) in self.others.iter_mut().zip(theirs.chunks(each.max(1))) {
            let buffer = other.buffer.take().ok_or("its last share was not copied")?;
            other.jobs.send(Job { pages: share.to_vec(), buffer })?;
        }
        self.source.copy(mine, &mut self.buffer)?;
        for other in self.others.iter_mut().filter(|other| other.buffer.is_none()) {
            other.buffer = Some(other.done.recv()??.buffer);
        }
        Ok(())
    }
}
