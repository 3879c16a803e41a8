//! Owns asking the system where files are and what their file systems have left.

use super::account::Media;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The file systems of this host.
pub struct FileSystems;

impl Media for FileSystems {
    fn file_system(&self, path: &Path) -> Option<u64> {
        let found = std::fs::metadata(existing(path)).ok()?;
        (found.is_file() || found.is_dir()).then(|| found.dev())
    }

    /// What cannot be asked refuses nobody: whoever uses it finds out.
    fn free(&self, path: &Path) -> u64 {
        let stat = rustix::fs::statvfs(existing(path));
        stat.map_or(u64::MAX, |stat| stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn taken(&self, path: &Path) -> u64 {
        let bytes = |found: std::fs::Metadata| found.blocks() * 512;
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                let inside = std::fs::read_dir(path).into_iter().flatten().flatten();
                inside.filter_map(|entry| entry.metadata().ok()).map(bytes).sum()
            }
            Ok(found) => bytes(found),
            Err(_) => 0,
        }
    }
}

/// The path, or what there is of it.
fn existing(path: &Path) -> &Path {
    path.ancestors().find(|part| part.exists()).unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_not_taken_and_what_is_not_there_is_where_it_would_be() {
        let folder = tempfile::tempdir().unwrap();
        let (sparse, full) = (folder.path().join("sparse"), folder.path().join("full"));
        std::fs::File::create(&sparse).unwrap().set_len(1 << 30).unwrap();
        std::fs::write(&full, vec![1; 1 << 20]).unwrap();
        assert!(FileSystems.taken(&sparse) < 1 << 20);
        // A file system may pack or put off what it writes.
        assert!(FileSystems.taken(folder.path()) <= (1 << 20) + (1 << 16));
        let missing = folder.path().join("not/there/yet");
        assert_eq!(FileSystems.taken(&missing), 0);
        assert_eq!(FileSystems.file_system(&missing), FileSystems.file_system(&full));
        assert!(FileSystems.free(&missing) > 0);
        assert_eq!(FileSystems.file_system(Path::new("/dev/null")), None);
    }
}
