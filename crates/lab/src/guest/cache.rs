//! Owns the cache of built images: one directory per recipe, complete or absent.
//!
//! A recipe is everything that an image is made of; its digest names the directory. A build happens in a temporary
//! directory beside it and is renamed into place, so two runs may build the same image at once: the first wins.
//! To make the images again (for newer packages) remove the cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::Xxh3;

use super::{GuestError, on};

/// The directory of built images.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// The cache in `$UNDYING_LAB_CACHE`, or else `lab-cache` in the workspace's target directory.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn open() -> Result<Cache, GuestError> {
        let root = env::var_os("UNDYING_LAB_CACHE").map_or_else(default_root, PathBuf::from);
        Cache::at(root)
    }

    /// A cache in a directory of the caller's choice.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn at(root: impl Into<PathBuf>) -> Result<Cache, GuestError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(on("create", &root))?;
        let root = root.canonicalize().map_err(on("resolve", &root))?;
        Ok(Cache { root })
    }

    /// The directory of the image `name` made from `recipe`; builds it first if it is not there.
    pub(super) fn get(
        &self,
        name: &str,
        recipe: &[&[u8]],
        build: impl FnOnce(&Path) -> Result<(), GuestError>,
    ) -> Result<PathBuf, GuestError> {
        let place = self.root.join(format!("{name}-{:016x}", digest(recipe)));
        if place.is_dir() {
            return Ok(place);
        }
        let work = tempfile::Builder::new()
            .prefix(&format!(".{name}-"))
            .tempdir_in(&self.root)
            .map_err(on("create a directory in", &self.root))?;
        build(work.path())?;
        let built = work.keep();
        match fs::rename(&built, &place) {
            Ok(()) => Ok(place),
            Err(_) if place.is_dir() => {
                // Another run finished the same image first.
                fs::remove_dir_all(&built).map_err(on("remove", &built))?;
                Ok(place)
            }
            Err(error) => Err(on("rename into place", &built)(error)),
        }
    }
}

/// Two levels above this crate is the workspace; `CARGO_TARGET_DIR` moves its target directory.
fn default_root() -> PathBuf {
    let target = env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target"), PathBuf::from);
    target.join("lab-cache")
}

/// Parts are told apart by their lengths, so that moving a byte from one to the next changes the digest.
fn digest(recipe: &[&[u8]]) -> u64 {
    let mut hash = Xxh3::new();
    for part in recipe {
        hash.update(&part.len().to_le_bytes());
        hash.update(part);
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn an_image_is_built_once_for_a_recipe_and_again_for_another() {
        let root = tempfile::tempdir().expect("a directory");
        let cache = Cache::at(root.path()).expect("a cache");
        let build = |text: &'static str| {
            move |place: &Path| fs::write(place.join("image"), text).map_err(on("write", place))
        };
        let first = cache.get("x", &[b"a", b"b"], build("one")).expect("built");
        let again = cache.get("x", &[b"a", b"b"], build("two")).expect("cached");
        let other = cache.get("x", &[b"ab", b""], build("three")).expect("built");
        assert_eq!(first, again);
        assert_eq!(fs::read_to_string(first.join("image")).expect("image"), "one");
        assert_ne!(first, other);
    }

    #[test]
    fn a_failed_build_leaves_nothing_behind() {
        let root = tempfile::tempdir().expect("a directory");
        let cache = Cache::at(root.path()).expect("a cache");
        let fail = |_: &Path| fs::read("/nonexistent").map(drop).map_err(on("read", "/nonexistent"));
        cache.get("x", &[b"a"], fail).expect_err("the build fails");
        assert_eq!(fs::read_dir(root.path()).expect("entries").count(), 0);
    }

    #[test]
    fn builds_at_the_same_time_end_with_one_whole_image() {
        let root = tempfile::tempdir().expect("a directory");
        let cache = Cache::at(root.path()).expect("a cache");
        let meet = std::sync::Barrier::new(4);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let place = cache.get("x", &[b"a"], |place| {
                        meet.wait();
                        fs::write(place.join("image"), "whole").map_err(on("write", place))
                    });
                    let place = place.expect("built by someone");
                    assert_eq!(fs::read_to_string(place.join("image")).expect("image"), "whole");
                });
            }
        });
        assert_eq!(fs::read_dir(root.path()).expect("entries").count(), 1);
    }
}
