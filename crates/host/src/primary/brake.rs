//! Owns slowing a guest that writes faster than its migration carries: it stands still for a share of each short while.
//!
//! QEMU's own throttle (`cpu-throttle-*`) is a part of its own migration and starts with it only, so the guest is stopped
//! and let go by the checkpointer's thread, which has the last word about both.

use crate::disks::Tap;
use disk::Image;
use qemu::Qemu;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A guest that is slowed by a half stands still for half of each of these.
const PERIOD: Duration = Duration::from_millis(20);

/// Stops a guest again and again. It must be let go of before anybody else stops or resumes the guest.
pub struct Brake<'a> {
    qemu: &'a Qemu,
    tap: &'a Tap,
    images: &'a [Arc<Image>],
    percent: u8,
    /// The guest stands still since.
    stopped: Option<Instant>,
    /// When that changes.
    next: Instant,
    total: Duration,
}

impl<'a> Brake<'a> {
    /// A brake that is not pulled.
    #[must_use]
    pub fn new(qemu: &'a Qemu, tap: &'a Tap, images: &'a [Arc<Image>]) -> Self {
        Self { qemu, tap, images, percent: 0, stopped: None, next: Instant::now(), total: Duration::ZERO }
    }

    /// From now on the guest loses so many percent of its time.
    pub fn set(&mut self, percent: u8) {
        self.percent = percent;
    }

    /// For how long the guest stood still in all.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.total + self.stopped.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// When it must be looked after again.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        (self.percent > 0 || self.stopped.is_some()).then_some(self.next)
    }

    /// Looks after it.
    ///
    /// # Errors
    /// If QEMU does not stop or go on.
    pub fn tick(&mut self) -> Result<(), String> {
        if self.due().is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        let share = f64::from(self.percent) / 100.0;
        if self.stopped.is_some() {
            self.let_go()?;
            self.next = Instant::now() + PERIOD.mul_f64(1.0 - share);
        } else {
            self.stop()?;
            self.next = Instant::now() + PERIOD.mul_f64(share);
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        // QEMU flushes its disks when it stops; that is made good behind it, as at a checkpoint.
        self.tap.stop_begins();
        let stopped = self.qemu.stop().map_err(|error| error.to_string());
        self.tap.stop_ends();
        stopped?;
        self.stopped = Some(Instant::now());
        self.tap.make_good(self.images).map_err(|error| error.to_string())
    }

    /// The guest runs from here on, if this brake stopped it.
    ///
    /// # Errors
    /// If QEMU does not go on.
    pub fn let_go(&mut self) -> Result<(), String> {
        let Some(since) = self.stopped.take() else { return Ok(()) };
        self.total += since.elapsed();
        super::checkpointer::go_on(self.qemu).map_err(|error| error.to_string())
    }
}
