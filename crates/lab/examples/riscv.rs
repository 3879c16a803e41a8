//! Builds the guest of the deterministic machine and tells where it is.

#![forbid(unsafe_code)]

use lab::guest::cache::Cache;
use lab::guest::riscv::RiscvGuest;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let guest = RiscvGuest::build(&Cache::open()?)?;
    println!("--kernel {} --initrd {}", guest.kernel.display(), guest.initrd.display());
    println!("--append {:?}", guest.append(None, false));
    Ok(())
}
