//! An export in a folder of its own, and foreign programs.

use disk::{Access, Export, Image, Observer, Unobserved};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// An export, its image and its socket.
pub struct Fixture {
    pub folder: TempDir,
    pub export: Option<Export>,
}

impl Fixture {
    /// A fresh disk of `size` bytes, served.
    pub fn new(size: u64) -> Self {
        Self::observed(size, Arc::new(Unobserved))
    }

    /// The same with somebody who looks.
    pub fn observed(size: u64, observer: Arc<dyn Observer>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let image = Image::create(&folder.path().join("disk.raw"), size).unwrap();
        let export = Export::serve(image, "vda", &folder.path().join("nbd.sock"), observer).unwrap();
        Self { folder, export: Some(export) }
    }

    /// Ends the export, and serves the same image again.
    pub fn serve_again(&mut self, access: Access) {
        self.end();
        let image = Image::open(&self.image(), access).unwrap();
        let export = Export::serve(image, "vda", &self.socket(), Arc::new(Unobserved)).unwrap();
        self.export = Some(export);
    }

    pub fn export(&self) -> &Export {
        self.export.as_ref().expect("served")
    }

    /// Ends the export.
    pub fn end(&mut self) {
        if let Some(export) = self.export.take() {
            export.shutdown();
        }
    }

    pub fn image(&self) -> PathBuf {
        self.folder.path().join("disk.raw")
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("nbd.sock")
    }

    pub fn uri(&self) -> String {
        format!("nbd+unix:///vda?socket={}", self.socket().display())
    }

    /// The bytes of the image. Only without an export: they are what the next user finds.
    pub fn bytes(&mut self) -> Vec<u8> {
        self.end();
        std::fs::read(self.image()).unwrap()
    }
}

/// Whether `tool` is there; says loudly if not.
pub fn has(tool: &str, package: &str) -> bool {
    match Command::new(tool).arg("--version").output() {
        Ok(output) if output.status.success() => true,
        other => {
            let test = std::thread::current().name().unwrap_or("a test").to_owned();
            eprintln!(
                "SKIPPED: {test}: {tool} does not run ({other:?}); install the Debian package {package}"
            );
            false
        }
    }
}

/// What `tool` prints; it must succeed.
pub fn run(tool: &str, arguments: &[&str]) -> String {
    let output = outcome(tool, arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{tool} {arguments:?}: {}\n{text}{errors}", output.status);
    text
}

/// Runs `tool`, however it ends.
pub fn outcome(tool: &str, arguments: &[&str]) -> Output {
    Command::new(tool).args(arguments).output().unwrap_or_else(|error| panic!("{tool}: {error}"))
}

/// Numbers that look random and are the same each time.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        // xorshift64*, Marsaglia 2003 and Vigna 2016.
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
