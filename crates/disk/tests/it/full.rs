//! A medium that is full: the client hears of it, and the observer misses nothing that reached the image.

use crate::client::Client;
use disk::{Export, FlushUse, Image, Observer, Pace};
use protocol::What;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

const SIZE: u64 = 8 << 20;
const MEDIUM: u64 = 1 << 20;

/// A filesystem of [`MEDIUM`] bytes, until dropped.
struct Small(PathBuf);

impl Small {
    /// `None`, said loudly, where none can be mounted.
    fn mount(at: &Path) -> Option<Self> {
        let size = format!("size={MEDIUM}");
        match Command::new("mount").args(["-t", "tmpfs", "-o", &size, "none"]).arg(at).output() {
            Ok(output) if output.status.success() => Some(Self(at.into())),
            other => {
                eprintln!("SKIPPED: no small filesystem, which needs root: {other:?}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let outcome = Command::new("umount").arg(&self.0).status();
        assert!(outcome.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Remembers the lengths of data at offset 0.
struct Lengths(Mutex<Vec<u64>>);

impl Observer for Lengths {
    fn written(&self, offset: u64, what: What<'_>) -> Pace {
        assert_eq!(offset, 0);
        self.0.lock().unwrap().push(what.len());
        Pace::Full
    }

    fn flush(&self) -> FlushUse {
        FlushUse::Sync
    }
}

#[test]
fn of_a_write_that_stopped_the_observer_hears_what_is_in_the_image() {
    let folder = tempfile::tempdir().unwrap();
    let Some(medium) = Small::mount(folder.path()) else { return };
    let image = Image::create(&folder.path().join("disk"), SIZE).unwrap();
    let lengths = Arc::new(Lengths(Mutex::default()));
    let socket = folder.path().join("socket");
    let observer = Arc::clone(&lengths) as Arc<dyn Observer>;
    let export = Export::serve(image, "vda", &socket, observer).unwrap();
    let mut client = Client::connect(&socket);
    assert_eq!(client.write(0, &vec![7; 2 << 20]), 28, "ENOSPC");
    let told = lengths.0.lock().unwrap().clone();
    assert!(matches!(told[..], [len] if len > 0 && len <= MEDIUM), "{told:?}");
    let bytes = client.read(0, 2 << 20);
    let there = bytes.iter().take_while(|byte| **byte == 7).count();
    assert_eq!(there as u64, told[0]);
    assert!(bytes[there..].iter().all(|byte| *byte == 0));
    // QEMU tries again when there is space: here, less to write.
    assert_eq!(client.write(0, &[8; 4096]), 0);
    assert_eq!(export.stats().errors, 1);
    export.shutdown();
    drop(client);
    drop(medium);
}
