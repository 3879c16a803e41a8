//! Owns what the journal asks of a storage.

use std::io;

/// A directory of files. Names are plain file names in it.
///
/// A write is durable after [`Storage::sync`] of its file, a created, removed or renamed name after
/// [`Storage::sync_dir`]; until then a crash may lose it, tear it between 512-byte sectors and reorder it.
pub trait Storage: Send + Sync {
    /// Makes an empty file, or empties an existing one, and reserves `len` bytes that read as zero.
    ///
    /// # Errors
    /// As the file system says.
    fn create(&self, name: &str, len: u64) -> io::Result<()>;
    /// Writes all bytes at an offset within the reserved length.
    ///
    /// # Errors
    /// As the file system says.
    fn write_at(&self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the file's content durable.
    ///
    /// # Errors
    /// As the file system says; what was written before may then be lost for good.
    fn sync(&self, name: &str) -> io::Result<()>;
    /// Fills the buffer from an offset.
    ///
    /// # Errors
    /// As the file system says, and if the file ends before.
    fn read_at(&self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<()>;
    /// The file's length.
    ///
    /// # Errors
    /// As the file system says; [`io::ErrorKind::NotFound`] if there is none.
    fn len(&self, name: &str) -> io::Result<u64>;
    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// As the file system says.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, in the place of one that may be there.
    ///
    /// # Errors
    /// As the file system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// The names of the files.
    ///
    /// # Errors
    /// As the file system says.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes the names durable.
    ///
    /// # Errors
    /// As the file system says.
    fn sync_dir(&self) -> io::Result<()>;
    /// What people call the file: its path.
    fn describe(&self, name: &str) -> String;
}
