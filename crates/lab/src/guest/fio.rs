//! Owns adding Debian's fio, and the many libraries that it is linked with, to the Redis guest.

use super::cache::Cache;
use super::cpio::Archive;
use super::debian;
use super::redis::RedisGuest;
use super::{GuestError, on};
use std::fs;
use std::path::Path;

const PACKAGE: &str = "fio";
/// Counts changes of this file that change the image.
const RECIPE: &str = "fio, recipe 1";

/// The Redis guest with `/bin/fio`, which the pulse program starts, from the cache or built now. Tells fio's version
/// too.
///
/// # Errors
/// The packages cannot be fetched, a program of the build fails, or the disk does.
pub fn add(cache: &Cache, guest: &RedisGuest) -> Result<(RedisGuest, String), GuestError> {
    // Its path has the digest of all that it is made of.
    let base = guest.initrd.display().to_string();
    let place =
        cache.get("fio", &[RECIPE.as_bytes(), base.as_bytes()], |work| build_in(work, &guest.initrd))?;
    let version = place.join("version");
    let version = fs::read_to_string(&version).map_err(on("read", &version))?;
    Ok((RedisGuest { initrd: place.join("initrd"), ..guest.clone() }, version))
}

fn build_in(work: &Path, base: &Path) -> Result<(), GuestError> {
    let scratch = work.join("scratch");
    let unpacked = debian::unpack(&scratch, &[PACKAGE], debian::is_library_or_kernel)?;
    let fio = unpacked.find(PACKAGE, |path| path.ends_with("usr/bin/fio"))?;
    let mut archive = Archive::new();
    archive.file("bin/fio", &fs::read(&fio).map_err(on("read", &fio))?);
    for (name, file) in unpacked.libraries(&fio)? {
        let directory = if name.starts_with("ld-linux") { "lib64" } else { "lib/x86_64-linux-gnu" };
        archive.file(&format!("{directory}/{name}"), &fs::read(&file).map_err(on("read", &file))?);
    }
    // The kernel unpacks one archive after the other.
    let mut initrd = fs::read(base).map_err(on("read", base))?;
    initrd.extend(archive.finish());
    fs::write(work.join("initrd"), initrd).map_err(on("write", work.join("initrd")))?;
    let version = unpacked.version(PACKAGE);
    fs::write(work.join("version"), version).map_err(on("write", work.join("version")))?;
    fs::remove_dir_all(&scratch).map_err(on("remove", &scratch))
}
