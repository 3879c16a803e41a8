//! Owns what happens to a disk that is served, whoever asks: the image changes, then the observer hears of it, both
//! under the lock of the bytes concerned.

use crate::image::{Discarded, Holes, Image, ImageError};
use crate::range_lock::RangeLock;
use crate::stats::Counters;
use crate::tap::{FlushUse, Observer, Pace};
use protocol::What;
use std::sync::Arc;

/// An image with its observer; shared by all connections.
pub(crate) struct Served {
    image: Arc<Image>,
    locks: RangeLock,
    observer: Arc<dyn Observer>,
    counters: Counters,
}

impl Served {
    pub(crate) fn new(image: impl Into<Arc<Image>>, observer: Arc<dyn Observer>) -> Self {
        Self { image: image.into(), locks: RangeLock::default(), observer, counters: Counters::default() }
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Writes. Like all here it calls `before_waiting` before it waits for anything: the medium, an earlier change of
    /// the same bytes, or the observer. Writing itself waits only if the system has too much to write back.
    pub(crate) fn write(
        &self,
        offset: u64,
        bytes: &[u8],
        fua: bool,
        before_waiting: &mut dyn FnMut(),
    ) -> Result<(), ImageError> {
        let len = bytes.len() as u64;
        self.change(offset, len, before_waiting, || {
            let outcome = self.image.write_at(offset, bytes);
            // Of a write that failed on its way, the beginning is in the image: the observer must not miss it.
            let done = bytes.get(..done(&outcome, bytes.len())).unwrap_or(bytes);
            (outcome, Some(What::Data(done)))
        })?;
        self.counters.writes.one();
        self.counters.written_bytes.add(len);
        self.after_change(fua, before_waiting)
    }

    pub(crate) fn write_zeroes(
        &self,
        offset: u64,
        len: u64,
        holes: Holes,
        fua: bool,
        before_waiting: &mut dyn FnMut(),
    ) -> Result<(), ImageError> {
        self.change(offset, len, before_waiting, || {
            let outcome = self.image.write_zeroes_at(offset, len, holes);
            let len = done(&outcome, usize::try_from(len).unwrap_or(usize::MAX)) as u64;
            (outcome, Some(What::Zeroes(len)))
        })?;
        self.counters.zeroes.one();
        self.counters.zeroed_bytes.add(len);
        self.after_change(fua, before_waiting)
    }

    pub(crate) fn discard(
        &self,
        offset: u64,
        len: u64,
        fua: bool,
        before_waiting: &mut dyn FnMut(),
    ) -> Result<(), ImageError> {
        self.change(offset, len, before_waiting, || match self.image.discard_at(offset, len) {
            Ok(Discarded::Zeroed) => (Ok(()), Some(What::Discard(len))),
            Ok(Discarded::Ignored) => (Ok(()), None),
            Err(error) => (Err(error), None),
        })?;
        self.counters.discards.one();
        self.after_change(fua, before_waiting)
    }

    pub(crate) fn flush(&self, before_waiting: &mut dyn FnMut()) -> Result<(), ImageError> {
        match self.observer.flush() {
            FlushUse::Sync => self.sync(before_waiting)?,
            FlushUse::AnswerAtOnce => {}
        }
        self.counters.flushes.one();
        Ok(())
    }

    /// Announces a change, makes it, and tells what came of it before another change of the same bytes may begin.
    fn change<'a>(
        &self,
        offset: u64,
        len: u64,
        before_waiting: &mut dyn FnMut(),
        make: impl FnOnce() -> (Result<(), ImageError>, Option<What<'a>>),
    ) -> Result<(), ImageError> {
        let _held = self.locks.lock(offset..offset.saturating_add(len), &mut *before_waiting);
        if !self.observer.is_ready(offset, len) {
            before_waiting();
            let announced = self.observer.before(offset, len);
            announced.map_err(|source| self.image.refused(offset, len, source))?;
        }
        let (outcome, what) = make();
        if let Some(what) = what.filter(|what| !what.is_empty())
            && self.observer.written(offset, what) == Pace::Slow
        {
            before_waiting();
            self.observer.slow_down();
        }
        outcome
    }

    fn after_change(&self, fua: bool, before_waiting: &mut dyn FnMut()) -> Result<(), ImageError> {
        if fua { self.sync(before_waiting) } else { Ok(()) }
    }

    fn sync(&self, before_waiting: &mut dyn FnMut()) -> Result<(), ImageError> {
        before_waiting();
        self.image.flush()?;
        self.counters.syncs.one();
        Ok(())
    }
}

/// How many bytes are in the image after a write of `whole`.
fn done(outcome: &Result<(), ImageError>, whole: usize) -> usize {
    match outcome {
        Ok(()) => whole,
        Err(ImageError::Write { done, .. }) => usize::try_from(*done).unwrap_or(usize::MAX),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Access;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Observer for Log {
        fn is_ready(&self, _: u64, _: u64) -> bool {
            false
        }

        fn before(&self, offset: u64, len: u64) -> std::io::Result<()> {
            if offset == 1536 {
                return Err(std::io::Error::other("not now"));
            }
            self.0.lock().unwrap().push(format!("before {offset}+{len}"));
            Ok(())
        }

        fn written(&self, offset: u64, what: What<'_>) -> Pace {
            let kind = match what {
                What::Data(_) => "data",
                What::Zeroes(_) => "zeroes",
                What::Discard(_) => "discard",
            };
            self.0.lock().unwrap().push(format!("{kind} {offset}+{}", what.len()));
            Pace::Full
        }

        fn flush(&self) -> FlushUse {
            self.0.lock().unwrap().push("flush".into());
            FlushUse::AnswerAtOnce
        }
    }

    #[test]
    fn the_observer_hears_of_everything_in_order_and_answers_for_flushes() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::create(&folder.path().join("d"), 1 << 20).unwrap();
        let log = Arc::new(Log::default());
        let served = Served::new(image, Arc::clone(&log) as Arc<dyn Observer>);
        served.write(512, &[1; 1024], false, &mut || ()).unwrap();
        served.write_zeroes(0, 4096, Holes::Allowed, false, &mut || ()).unwrap();
        served.discard(4096, 8192, false, &mut || ()).unwrap();
        served.flush(&mut || ()).unwrap();
        assert_eq!(served.counters().snapshot().syncs, 0, "the observer said to answer at once");
        served.write(0, &[1; 512], true, &mut || ()).unwrap();
        assert_eq!(served.counters().snapshot().syncs, 1, "FUA always waits for the medium");
        served.write(1536, &[9; 512], false, &mut || ()).unwrap_err();
        let mut kept = [0; 512];
        served.image().read_at(1536, &mut kept).unwrap();
        assert_eq!(kept, [0; 512], "a change that was refused is not made");
        let told = [
            "before 512+1024",
            "data 512+1024",
            "before 0+4096",
            "zeroes 0+4096",
            "before 4096+8192",
            "discard 4096+8192",
            "flush",
            "before 0+512",
            "data 0+512",
        ];
        assert_eq!(*log.0.lock().unwrap(), told);
    }

    #[test]
    fn what_was_refused_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        drop(Image::create(&path, 4096).unwrap());
        let log = Arc::new(Log::default());
        let image = Image::open(&path, Access::ReadOnly).unwrap();
        let served = Served::new(image, Arc::clone(&log) as Arc<dyn Observer>);
        served.write(0, &[1; 512], false, &mut || ()).unwrap_err();
        served.write_zeroes(4096, 512, Holes::Allowed, false, &mut || ()).unwrap_err();
        served.discard(u64::MAX, 512, false, &mut || ()).unwrap_err();
        assert!(log.0.lock().unwrap().iter().all(|line| line.starts_with("before")));
    }
}
