//! Owns the journal's files in a real directory.

use super::storage::Storage;
use rustix::fs::FallocateFlags;
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes written at a time where a file system cannot reserve space.
const FILL: usize = 1 << 20;

/// A directory on a file system. Keeps its files open.
#[derive(Debug)]
pub struct FileStorage {
    dir: PathBuf,
    open: Mutex<HashMap<String, Arc<File>>>,
}

impl FileStorage {
    /// Takes a directory, which is made if it is missing.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn new(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_path_buf(), open: Mutex::default() })
    }

    fn opened(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<File>>> {
        // The map is whole between any two statements.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, name: &str) -> io::Result<Arc<File>> {
        if let Some(file) = self.opened().get(name) {
            return Ok(Arc::clone(file));
        }
        let file = Arc::new(OpenOptions::new().read(true).write(true).open(self.dir.join(name))?);
        self.opened().insert(name.to_owned(), Arc::clone(&file));
        Ok(file)
    }
}

fn reserve(file: &File, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        other => return other.map_err(io::Error::from),
    }
    let zeroes = vec![0; FILL];
    for at in (0..len).step_by(FILL) {
        let part = (len - at).min(FILL as u64) as usize;
        file.write_all_at(&zeroes[..part], at)?;
    }
    Ok(())
}

impl Storage for FileStorage {
    fn create(&self, name: &str, len: u64) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(self.dir.join(name))?;
        reserve(&file, len)?;
        self.opened().insert(name.to_owned(), Arc::new(file));
        Ok(())
    }

    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(bytes, offset)
    }

    fn sync(&self, name: &str) -> io::Result<()> {
        self.file(name)?.sync_data()
    }

    fn read_at(&self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file(name)?.read_exact_at(bytes, offset)
    }

    fn len(&self, name: &str) -> io::Result<u64> {
        Ok(fs::metadata(self.dir.join(name))?.len())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.opened().remove(name);
        match fs::remove_file(self.dir.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut opened = self.opened();
        opened.remove(from);
        opened.remove(to);
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn sync_dir(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    fn describe(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}
