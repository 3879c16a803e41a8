//! Owns slowing a guest that writes faster than it is carried: it stands still for a share of each short while.
//!
//! For a migration `protocol::migration` says by how much, for a protected guest `protocol::slowing`. QEMU's own throttle
//! (`cpu-throttle-*`) is a part of its own migration and starts with it only, so the guest is stopped and let go by the
//! checkpointer's thread, which has the last word about both.

use crate::computer::Computer;
use crate::disks::Tap;
use disk::Image;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A guest that is slowed by a half stands still for half of each of these.
const PERIOD: Duration = Duration::from_millis(20);

/// What the guest does, as far as a brake knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guest {
    Runs,
    /// This brake stopped it.
    Stands(Instant),
    /// Somebody else did, and will let it go.
    IsHeld,
}

/// Stops a guest again and again.
pub struct Brake {
    computer: Arc<dyn Computer>,
    tap: Arc<Tap>,
    images: Vec<Arc<Image>>,
    percent: u8,
    guest: Guest,
    /// When that changes.
    next: Instant,
    total: Duration,
}

impl Brake {
    /// A brake that is not pulled, on a guest that runs.
    #[must_use]
    pub fn new(computer: &Arc<dyn Computer>, tap: &Arc<Tap>, images: &[Arc<Image>]) -> Self {
        Self {
            computer: Arc::clone(computer),
            tap: Arc::clone(tap),
            images: images.to_vec(),
            percent: 0,
            guest: Guest::Runs,
            next: Instant::now(),
            total: Duration::ZERO,
        }
    }

    /// From now on the guest loses so many percent of its time.
    pub fn set(&mut self, percent: u8) {
        self.percent = percent;
    }

    /// For how long the guest stood still in all.
    #[must_use]
    pub fn total(&self) -> Duration {
        let now = match self.guest {
            Guest::Stands(since) => since.elapsed(),
            Guest::Runs | Guest::IsHeld => Duration::ZERO,
        };
        self.total + now
    }

    /// Whether the guest stands still because of this brake.
    #[must_use]
    pub fn stands(&self) -> bool {
        matches!(self.guest, Guest::Stands(_))
    }

    /// Whether the guest runs, as far as is known here.
    #[must_use]
    pub fn lets_run(&self) -> bool {
        self.guest == Guest::Runs
    }

    /// When it must be looked after again.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let due = match self.guest {
            Guest::Runs => self.percent > 0,
            Guest::Stands(_) => true,
            Guest::IsHeld => false,
        };
        due.then_some(self.next)
    }

    /// Looks after it.
    ///
    /// # Errors
    /// If the machine does not stop or go on.
    pub fn tick(&mut self) -> Result<(), String> {
        if self.due().is_none_or(|due| Instant::now() < due) {
            return Ok(());
        }
        let share = f64::from(self.percent) / 100.0;
        if self.stands() {
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
        let stopped = self.computer.stop().map_err(|error| error.to_string());
        self.tap.stop_ends();
        stopped?;
        self.guest = Guest::Stands(Instant::now());
        self.tap.make_good(&self.images).map_err(|error| error.to_string())
    }

    /// The guest runs from here on, if this brake stopped it.
    ///
    /// # Errors
    /// If the machine does not go on.
    pub fn let_go(&mut self) -> Result<(), String> {
        if !self.stands() {
            return Ok(());
        }
        self.is_let_go();
        self.computer.go_on().map_err(|error| error.to_string())
    }

    /// Somebody else stops the guest, for as long as it takes.
    pub fn is_held(&mut self) {
        self.total = self.total();
        self.guest = Guest::IsHeld;
    }

    /// Somebody else let the guest go.
    pub fn is_let_go(&mut self) {
        self.total = self.total();
        self.guest = Guest::Runs;
    }
}
