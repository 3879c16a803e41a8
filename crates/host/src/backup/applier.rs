//! Owns the thread that writes committed epochs into the image, in order.
//!
//! Everything that reaches it was validated before it was acknowledged, so applying cannot fail but by the loss
//! of the standby process itself; then nothing is acknowledged any more.

use super::persister::Persister;
use crate::link::Frame;
use crate::machine::{Image, StandbyMachine};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use net::Addresses;
use protocol::Epoch;
use protocol::wire::Kind;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What a promotion needs beside the image.
#[derive(Debug, Default)]
pub struct Applied {
    /// Newest epoch in the image.
    pub epoch: Epoch,
    /// Its device state.
    pub device: Vec<u8>,
    /// Addresses that the guest was seen to use.
    pub addresses: Addresses,
}

enum Job {
    Copy(Frame),
    Commit(Epoch, Vec<Frame>, Vec<u8>),
    Reached(Box<dyn FnOnce() + Send>),
    Finish(Sender<Applied>),
    Stop,
}

/// The handle of the thread.
pub struct Applier {
    jobs: Sender<Job>,
    backlog: Arc<AtomicU64>,
    error: Arc<Mutex<Option<String>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Applier {
    /// Starts the thread. The persister, if the VM has disks, hears which epochs are in their images.
    pub fn start(machine: &StandbyMachine, persister: Option<&Persister>) -> Self {
        let (jobs, queue) = unbounded();
        let (backlog, error) = (Arc::new(AtomicU64::new(0)), Arc::new(Mutex::new(None)));
        let stopped = Arc::new(AtomicBool::new(false));
        let mut worker = Worker {
            stopped: Arc::clone(&stopped),
            image: machine.image(),
            applied: Applied::default(),
            backlog: Arc::clone(&backlog),
            told: persister.map(|persister| Box::new(persister.applied()) as Box<dyn Fn(Epoch) + Send>),
        };
        let worker_error = Arc::clone(&error);
        let spawned = std::thread::Builder::new().name("ud-applier".into()).spawn(move || {
            if let Err(why) = worker.run(&queue) {
                *worker_error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
            }
        });
        let failed = |why: std::io::Error| {
            *error.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.to_string());
        };
        let thread = spawned.map_err(failed).ok();
        Self { jobs, backlog, error, stopped, thread }
    }

    fn put(&self, bytes: usize, job: Job) {
        self.backlog.fetch_add(bytes as u64, Ordering::Relaxed);
        let _ = self.jobs.send(job);
    }

    /// Applies a part of the first copy.
    pub fn copy(&self, frame: Frame) {
        self.put(frame.body.len(), Job::Copy(frame));
    }

    /// Applies a whole epoch.
    pub fn commit(&self, epoch: Epoch, frames: Vec<Frame>, gate: Vec<u8>) {
        let bytes = frames.iter().map(|frame| frame.body.len()).sum();
        self.put(bytes, Job::Commit(epoch, frames, gate));
    }

    /// Calls this when everything that was given so far is applied.
    pub fn when_reached(&self, call: impl FnOnce() + Send + 'static) {
        let _ = self.jobs.send(Job::Reached(Box::new(call)));
    }

    /// Tells when everything that was given so far is applied.
    pub fn reached(&self) -> Receiver<()> {
        let (reply, reached) = bounded(1);
        self.when_reached(move || {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(());
        });
        reached
    }

    /// Bytes not applied yet.
    pub fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }

    /// Why applying ended, if it did.
    pub fn error(&self) -> Option<String> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until all is applied, and ends the thread.
    pub fn finish(self) -> Result<Applied, String> {
        let (reply, applied) = bounded(1);
        let _ = self.jobs.send(Job::Finish(reply));
        applied.recv().map_err(|_| self.error().unwrap_or_else(|| "the applier is gone".into()))
    }

    /// Ends the thread, behind what it does now and without what waits: it writes nothing more.
    pub fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        let _ = self.jobs.send(Job::Stop);
        if let Some(thread) = self.thread {
            let _ = thread.join();
        }
    }
}

struct Worker {
    stopped: Arc<AtomicBool>,
    image: Image,
    applied: Applied,
    backlog: Arc<AtomicU64>,
    told: Option<Box<dyn Fn(Epoch) + Send>>,
}

impl Worker {
    fn run(&mut self, jobs: &Receiver<Job>) -> Result<(), String> {
        for job in jobs {
            if self.stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            match job {
                Job::Copy(frame) => self.frame(&frame)?,
                Job::Commit(epoch, frames, gate) => self.commit(epoch, &frames, &gate)?,
                Job::Reached(call) => call(),
                Job::Finish(reply) => {
                    let _ = reply.send(std::mem::take(&mut self.applied));
                    return Ok(());
                }
                Job::Stop => return Ok(()),
            }
        }
        Ok(())
    }

    fn commit(&mut self, epoch: Epoch, frames: &[Frame], gate: &[u8]) -> Result<(), String> {
        self.applied.device.clear();
        for frame in frames {
            self.frame(frame)?;
        }
        if let Ok(addresses) = serde_json::from_slice(gate) {
            self.applied.addresses = addresses;
        }
        self.applied.epoch = epoch;
        if let Some(told) = &self.told {
            told(epoch);
        }
        Ok(())
    }

    fn frame(&mut self, frame: &Frame) -> Result<(), String> {
        match frame.header.kind {
            Kind::Pages => self.image.apply(&frame.body).map_err(|error| error.to_string())?,
            Kind::Device => self.applied.device.extend_from_slice(&frame.body),
            Kind::Console => self.image.console(&frame.body),
            Kind::Disk => self.image.disks(&frame.body).map_err(|error| error.to_string())?,
            _ => {}
        }
        self.backlog.fetch_sub(frame.body.len() as u64, Ordering::Relaxed);
        Ok(())
    }
}
