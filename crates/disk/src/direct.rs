//! Owns a client of a served disk in this process: what a socket's client may ask for, without a socket.

use crate::image::{Access, ImageError};
use crate::served::Served;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

/// A served disk as long as its export lives. Requests hold it while they are carried out.
pub(crate) type Open = RwLock<Option<Arc<Served>>>;

/// Reaches a served disk in this process. Its requests are carried out on the caller's thread, one after the other for each
/// caller, under the same locks and with the same observer as those of other clients.
#[derive(Clone)]
pub struct Direct {
    open: Arc<Open>,
    path: PathBuf,
    size: u64,
    access: Access,
}

impl Direct {
    pub(crate) fn new(open: &Arc<Open>, served: &Served) -> Self {
        let image = served.image();
        let (path, size, access) = (image.path().to_owned(), image.size(), image.access());
        Self { open: Arc::clone(open), path, size, access }
    }

    /// The size of the disk in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether it may only be read.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    /// Reads.
    ///
    /// # Errors
    /// If the range is not inside the disk, the medium fails, or the export has ended.
    pub fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ImageError> {
        self.ask(|served| {
            served.image().read_at(offset, bytes)?;
            served.counters().reads.one();
            served.counters().read_bytes.add(bytes.len() as u64);
            Ok(())
        })
    }

    /// Writes. It may wait for the observer.
    ///
    /// # Errors
    /// If the disk is read-only, the range not inside it, the medium or the observer refuses, or the export has ended.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
        self.ask(|served| served.write(offset, bytes, false, &mut || ()))
    }

    /// A flush of the guest's: what was written is on the medium when this returns, if the observer wants it so.
    ///
    /// # Errors
    /// If the medium fails, or the export has ended.
    pub fn flush(&self) -> Result<(), ImageError> {
        self.ask(|served| served.flush(&mut || ()))
    }

    fn ask(&self, request: impl FnOnce(&Served) -> Result<(), ImageError>) -> Result<(), ImageError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(served) = &*open else {
            return Err(ImageError::Ended { path: self.path.clone() });
        };
        let _asked = served.counters().in_flight.during();
        request(served).inspect_err(|error| {
            tracing::warn!(%error, "a disk's client gets an error");
            served.counters().errors.one();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::{FlushUse, Observer, Pace};
    use crate::{Export, Image};
    use protocol::What;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Log(Mutex<Vec<String>>);

    impl Observer for Log {
        fn written(&self, offset: u64, what: What<'_>) -> Pace {
            let What::Data(bytes) = what else { panic!("only data is written") };
            self.0.lock().unwrap().push(format!("{offset}: {}x{}", bytes.len(), bytes[0]));
            Pace::Full
        }

        fn flush(&self) -> FlushUse {
            self.0.lock().unwrap().push("flush".to_owned());
            FlushUse::Sync
        }
    }

    #[test]
    fn the_observer_sees_what_was_written_and_the_counters_count() {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::create(&folder.path().join("d"), 1 << 20).unwrap();
        let log = Arc::new(Log::default());
        let export = Export::new(image, "vda", Arc::clone(&log) as Arc<dyn Observer>).unwrap();
        let disk = export.direct();
        assert_eq!((disk.size(), disk.is_read_only()), (1 << 20, false));
        disk.write_at(512, &[7; 1024]).unwrap();
        disk.write_at(1024, &[8; 512]).unwrap();
        disk.flush().unwrap();
        let mut bytes = [0; 2048];
        disk.clone().read_at(0, &mut bytes).unwrap();
        let expected = [[0; 512], [7; 512], [8; 512], [0; 512]].concat();
        assert_eq!(bytes.as_slice(), expected);
        disk.write_at((1 << 20) - 512, &[9; 1024]).unwrap_err();
        assert_eq!(*log.0.lock().unwrap(), ["512: 1024x7", "1024: 512x8", "flush"]);
        let stats = export.stats();
        assert_eq!((stats.writes, stats.written_bytes, stats.reads, stats.read_bytes), (2, 1536, 1, 2048));
        assert_eq!((stats.flushes, stats.syncs, stats.errors, stats.in_flight), (1, 1, 1, 0));
    }

    #[test]
    fn a_read_only_disk_is_not_written_and_one_that_is_served_no_more_not_reached() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d");
        drop(Image::create(&path, 4096).unwrap());
        let image = Image::open(&path, Access::ReadOnly).unwrap();
        let log = Arc::new(Log::default());
        let export = Export::new(image, "vda", Arc::clone(&log) as Arc<dyn Observer>).unwrap();
        let disk = export.direct();
        assert!(disk.is_read_only());
        assert!(matches!(disk.write_at(0, &[1; 512]), Err(ImageError::ReadOnly { .. })));
        disk.read_at(0, &mut [0; 512]).unwrap();
        export.shutdown();
        assert!(matches!(disk.read_at(0, &mut [0; 512]), Err(ImageError::Ended { .. })));
        assert!(log.0.lock().unwrap().is_empty());
        // It is unlocked, although somebody could still ask for it.
        Image::open(&path, Access::ReadWrite).unwrap();
    }
}
