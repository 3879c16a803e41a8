//! Owns what was written to a VM's disks since the last cut.
//!
//! QEMU has all its writes answered when `stop` returns, so a cut after it holds exactly the epoch's writes
//! (QEMU `softmmu/cpus.c`, `do_vm_stop`: it drains, then flushes).

use super::differences::Marker;
use super::meter::Meter;
use disk::{FlushUse, Image, Observer, Pace};
use protocol::What;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Past so many bytes of one epoch each further write is delayed: the guest then writes no faster than this for each
/// checkpoint and delay.
const MANY_BYTES: usize = 64 << 20;
/// The delay. Not until the next cut: `stop` waits for the write, and the cut for `stop`.
const DELAY: Duration = Duration::from_millis(5);

/// A change of a disk, kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptChange {
    /// Number of the disk.
    pub disk: u8,
    /// Its first byte.
    pub offset: u64,
    /// What is there now.
    pub what: Kept,
}

/// What a change left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kept {
    /// These bytes.
    Data(Vec<u8>),
    /// So many zeroes.
    Zeroes(u64),
    /// So many bytes that the guest does not need.
    Discard(u64),
}

impl KeptChange {
    /// Bytes of the disk that it changes.
    #[must_use]
    pub fn changed(&self) -> u64 {
        match &self.what {
            Kept::Data(bytes) => bytes.len() as u64,
            &Kept::Zeroes(len) | &Kept::Discard(len) => len,
        }
    }

    /// Bytes of memory that it takes, about.
    #[must_use]
    pub fn weight(&self) -> usize {
        size_of::<Self>() + if let Kept::Data(bytes) = &self.what { bytes.len() } else { 0 }
    }
}

#[derive(Debug, Default)]
struct Collected {
    wanted: bool,
    changes: Vec<KeptChange>,
    bytes: usize,
    /// What was taken, kept for a second session.
    second: Option<Vec<KeptChange>>,
    second_bytes: usize,
}

impl Collected {
    fn is_much(&self) -> bool {
        self.bytes + self.second_bytes > MANY_BYTES
    }
}

/// The changes of all disks of a VM, in an order that is right for each of them.
#[derive(Default)]
pub struct Tap {
    collected: Mutex<Collected>,
    taken: Condvar,
    /// The flushes that come now are those of our own `stop`.
    stopping: AtomicBool,
    /// By disk: a flush was answered before its data were on the medium, and none was done since. Held while it is
    /// made good.
    owed: Vec<Mutex<bool>>,
    /// Where changes are marked, once the VM runs here.
    marker: OnceLock<Marker>,
    meter: Arc<Meter>,
}

impl Tap {
    /// Of so many disks.
    #[must_use]
    pub fn new(disks: usize) -> Self {
        let owed = std::iter::repeat_with(Mutex::default).take(disks).collect();
        Self { meter: Arc::new(Meter::new(disks)), owed, ..Self::default() }
    }

    /// The VM is about to run here: its changes are marked from now on. Once in the life of a tap.
    pub fn mark_with(&self, marker: Marker) {
        let first = self.marker.set(marker).is_ok();
        assert!(first, "a VM begins to run once");
    }

    /// Where changes are marked; none while this host stands by.
    #[must_use]
    pub fn marker(&self) -> Option<&Marker> {
        self.marker.get()
    }

    /// What is counted.
    #[must_use]
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    fn collected(&self) -> MutexGuard<'_, Collected> {
        self.collected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps changes from now on.
    pub fn begin(&self) {
        *self.collected() = Collected { wanted: true, ..Collected::default() };
        self.meter.restart();
    }

    /// Keeps nothing more, and forgets what it kept.
    pub fn end(&self) {
        *self.collected() = Collected::default();
        self.meter.end();
        self.taken.notify_all();
    }

    /// What was kept since the last time.
    pub fn take(&self) -> Vec<KeptChange> {
        let mut collected = self.collected();
        let bytes = std::mem::take(&mut collected.bytes);
        let taken = std::mem::take(&mut collected.changes);
        if let Some(second) = &mut collected.second {
            second.extend_from_slice(&taken);
            collected.second_bytes += bytes;
        }
        self.taken.notify_all();
        taken
    }

    /// What is taken from now on is kept for a second session, too.
    pub fn begin_second(&self) {
        let mut collected = self.collected();
        (collected.second, collected.second_bytes) = (Some(Vec::new()), 0);
    }

    /// Not any more.
    pub fn end_second(&self) {
        let mut collected = self.collected();
        (collected.second, collected.second_bytes) = (None, 0);
        self.taken.notify_all();
    }

    /// What was taken since the last time, for the second session.
    pub fn take_second(&self) -> Vec<KeptChange> {
        let mut collected = self.collected();
        collected.second_bytes = 0;
        self.taken.notify_all();
        collected.second.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes back what the second session was not sent. Some of it may come twice, in the same order.
    pub fn give_back_second(&self, mut changes: Vec<KeptChange>) {
        let mut collected = self.collected();
        if let Some(second) = &mut collected.second {
            changes.append(second);
            let bytes = changes.iter().map(KeptChange::weight).sum();
            (collected.second, collected.second_bytes) = (Some(changes), bytes);
        }
    }

    /// Takes back what was taken and not sent: it belongs to the next cut, before all that came after it.
    pub fn give_back(&self, mut changes: Vec<KeptChange>) {
        let mut collected = self.collected();
        if collected.wanted {
            changes.append(&mut collected.changes);
            collected.bytes = changes.iter().map(KeptChange::weight).sum();
            collected.changes = changes;
        }
    }

    /// Bytes kept now.
    pub fn bytes(&self) -> usize {
        self.collected().bytes
    }

    /// The guest is about to be stopped: QEMU will flush its disks, which the guest did not ask for.
    pub fn stop_begins(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    /// The guest is about to go on: a flush that comes now is its own.
    pub fn stop_ends(&self) {
        self.stopping.store(false, Ordering::SeqCst);
    }

    /// Brings to the media what a flush was answered for that may have been the guest's last before the stop: before
    /// anything that the guest says after it leaves. Writes wait meanwhile.
    ///
    /// # Errors
    /// If a medium fails.
    pub fn make_good(&self, images: &[Arc<Image>]) -> Result<(), disk::ImageError> {
        self.owed.iter().zip(images).try_for_each(|(owed, image)| pay(&mut lock(owed), image))
    }

    /// The tap of one of the disks, whose image this is.
    pub fn of_disk(self: &Arc<Self>, disk: u8, image: Arc<Image>) -> DiskTap {
        DiskTap { tap: Arc::clone(self), disk, image }
    }

    fn keep(&self, change: KeptChange) -> Pace {
        let mut collected = self.collected();
        if !collected.wanted {
            return Pace::Full;
        }
        self.meter.written(change.disk, change.changed());
        collected.bytes += change.weight();
        collected.changes.push(change);
        if collected.is_much() { Pace::Slow } else { Pace::Full }
    }
}

fn lock(owed: &Mutex<bool>) -> MutexGuard<'_, bool> {
    owed.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pay(owed: &mut bool, image: &Image) -> Result<(), disk::ImageError> {
    if *owed {
        image.flush()?;
        *owed = false;
    }
    Ok(())
}

/// Where the server of one disk tells of its changes.
pub struct DiskTap {
    tap: Arc<Tap>,
    disk: u8,
    image: Arc<Image>,
}

impl DiskTap {
    /// A write that comes after a flush relies on it. The flush may have been the guest's, and during our own `stop`
    /// QEMU's qcow2 driver writes what it has in its caches, reference counts before the tables that need them, with
    /// flushes between. What was answered at once is made good first.
    fn keep_order(&self) -> std::io::Result<()> {
        pay(&mut lock(self.owed()), &self.image).map_err(std::io::Error::other)
    }

    /// Whether [`keep_order`](Self::keep_order) has nothing to do, nor to wait for.
    fn in_order(&self) -> bool {
        self.owed().try_lock().is_ok_and(|owed| !*owed)
    }

    fn owed(&self) -> &Mutex<bool> {
        &self.tap.owed[usize::from(self.disk)]
    }
}

impl Observer for DiskTap {
    fn is_ready(&self, offset: u64, len: u64) -> bool {
        let mark = |marker: &Marker| marker.map().mark_at_once(self.disk, offset, len);
        self.in_order() && self.tap.marker().is_none_or(mark)
    }

    fn before(&self, offset: u64, len: u64) -> std::io::Result<()> {
        self.keep_order()?;
        self.tap.marker().map_or(Ok(()), |marker| marker.before_write(self.disk, offset, len))
    }

    fn written(&self, offset: u64, what: What<'_>) -> Pace {
        // Most VMs' disks are not copied most of the time.
        if !self.tap.collected().wanted {
            return Pace::Full;
        }
        let what = match what {
            What::Data(bytes) => Kept::Data(bytes.to_vec()),
            What::Zeroes(len) => Kept::Zeroes(len),
            What::Discard(len) => Kept::Discard(len),
        };
        self.tap.keep(KeptChange { disk: self.disk, offset, what })
    }

    fn slow_down(&self) {
        let collected = self.tap.collected();
        if collected.is_much() {
            drop(self.tap.taken.wait_timeout(collected, DELAY));
        }
    }

    fn flush(&self) -> FlushUse {
        if self.tap.stopping.load(Ordering::SeqCst) {
            *lock(self.owed()) = true;
            FlushUse::AnswerAtOnce
        } else {
            // The server does it now.
            FlushUse::Sync
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA: What<'static> = What::Data(&[7; 512]);

    fn image(folder: &tempfile::TempDir, name: &str) -> Arc<Image> {
        Arc::new(Image::create(&folder.path().join(name), 1 << 20).unwrap())
    }

    fn offsets(changes: &[KeptChange]) -> Vec<u64> {
        changes.iter().map(|change| change.offset).collect()
    }

    #[test]
    fn changes_belong_to_the_cut_after_them_and_come_back_first() {
        let folder = tempfile::tempdir().unwrap();
        let tap = Arc::new(Tap::new(2));
        let (one, two) = (tap.of_disk(0, image(&folder, "a")), tap.of_disk(1, image(&folder, "b")));
        one.written(0, DATA);
        assert_eq!(tap.take(), [], "nobody wants them");
        tap.begin();
        one.written(1, DATA);
        two.written(2, What::Zeroes(4096));
        let first = tap.take();
        assert_eq!((offsets(&first), first[1].disk), (vec![1, 2], 1));
        one.written(3, DATA);
        tap.give_back(first);
        assert_eq!(offsets(&tap.take()), [1, 2, 3]);
        assert_eq!(tap.bytes(), 0);
        one.written(4, DATA);
        tap.end();
        assert_eq!(tap.take(), []);
    }

    #[test]
    fn a_second_session_gets_what_the_first_one_took_and_again_if_it_was_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let tap = Arc::new(Tap::new(1));
        let disk = tap.of_disk(0, image(&folder, "a"));
        tap.begin();
        disk.written(1, DATA);
        tap.take();
        tap.begin_second();
        disk.written(2, DATA);
        assert_eq!(tap.take_second(), [], "it is the first session's still");
        assert_eq!(offsets(&tap.take()), [2]);
        disk.written(3, DATA);
        let taken = tap.take_second();
        assert_eq!(offsets(&taken), [2]);
        tap.take();
        tap.give_back_second(taken);
        assert_eq!(offsets(&tap.take_second()), [2, 3]);
        tap.end_second();
        disk.written(4, DATA);
        tap.take();
        assert_eq!(tap.take_second(), []);
    }

    #[test]
    fn past_many_bytes_the_guest_is_slowed_until_they_are_taken() {
        let tap = Arc::new(Tap::new(1));
        let folder = tempfile::tempdir().unwrap();
        let disk = tap.of_disk(0, image(&folder, "a"));
        let many = vec![7; MANY_BYTES];
        let write = || disk.written(0, What::Data(&many));
        assert_eq!(write(), Pace::Full, "nobody wants them");
        tap.begin();
        assert_eq!(disk.written(0, DATA), Pace::Full);
        assert_eq!(write(), Pace::Slow);
        // Ends although nobody takes them: the cut would wait for this write.
        disk.slow_down();
        tap.take();
        assert_eq!(disk.written(0, DATA), Pace::Full);
        // What a second session has not taken counts, too.
        tap.begin_second();
        assert_eq!(write(), Pace::Slow);
        tap.take();
        assert_eq!(disk.written(0, DATA), Pace::Slow);
        tap.take_second();
        assert_eq!(disk.written(0, DATA), Pace::Full);
    }

    #[test]
    fn a_flush_of_our_own_stop_is_owed_and_one_of_the_guest_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let tap = Arc::new(Tap::new(1));
        let image = image(&folder, "a");
        let disk = tap.of_disk(0, Arc::clone(&image));
        assert_eq!(disk.flush(), FlushUse::Sync);
        assert!(disk.in_order());
        tap.stop_begins();
        assert_eq!(disk.flush(), FlushUse::AnswerAtOnce);
        tap.stop_ends();
        assert!(!disk.in_order(), "somebody must bring it to the medium");
        assert_eq!(disk.flush(), FlushUse::Sync);
        tap.make_good(&[image]).unwrap();
        assert!(disk.in_order());
    }

    #[test]
    fn a_write_behind_a_flush_of_our_own_stop_waits_for_the_medium() {
        let folder = tempfile::tempdir().unwrap();
        let tap = Arc::new(Tap::new(2));
        let (one, two) = (tap.of_disk(0, image(&folder, "a")), tap.of_disk(1, image(&folder, "b")));
        for guest_goes_on in [false, true] {
            tap.stop_begins();
            one.flush();
            if guest_goes_on {
                tap.stop_ends();
            }
            assert!(!one.is_ready(0, 512), "the flush may have been the guest's");
            assert!(two.is_ready(0, 512), "another disk has no part in it");
            one.before(0, 512).unwrap();
            assert!(one.is_ready(0, 512), "what was answered at once is made good");
        }
    }

    #[test]
    fn a_write_waits_while_another_brings_a_flush_to_the_medium() {
        let folder = tempfile::tempdir().unwrap();
        let tap = Arc::new(Tap::new(1));
        let disk = tap.of_disk(0, image(&folder, "a"));
        let making_good = lock(disk.owed());
        assert!(!disk.is_ready(0, 512));
        drop(making_good);
        assert!(disk.is_ready(0, 512));
    }
}
