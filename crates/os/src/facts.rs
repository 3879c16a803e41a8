//! Owns what the program must know about the machine it runs on.

use std::fs::OpenOptions;
use std::io;

/// The running kernel's release, such as `6.12.9-amd64`.
#[must_use]
pub fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Major and minor number of the running kernel.
#[must_use]
pub fn kernel_version() -> (u32, u32) {
    parse_version(&kernel_release())
}

fn parse_version(release: &str) -> (u32, u32) {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Whether `/dev/kvm` opens for us, and if not why.
///
/// # Errors
/// The reason: `NotFound` without KVM, `PermissionDenied` outside its group.
pub fn kvm_opens() -> Result<(), io::Error> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop)
}

/// Who made the first processor, and what it calls itself.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn cpu_name() -> Result<(String, String), io::Error> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    Ok((cpu_field(&text, "vendor_id").into(), cpu_field(&text, "model name").into()))
}

/// The capabilities of this process, as a set of bits (capabilities(7)).
///
/// # Errors
/// If `/proc` cannot be read.
pub fn capabilities() -> Result<u64, io::Error> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    Ok(bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0))
}

/// The flags of the first processor, as `/proc/cpuinfo` lists them.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn cpu_flags() -> Result<Vec<String>, io::Error> {
    Ok(parse_flags(&std::fs::read_to_string("/proc/cpuinfo")?))
}

fn parse_flags(cpuinfo: &str) -> Vec<String> {
    cpu_field(cpuinfo, "flags").split_whitespace().map(str::to_string).collect()
}

fn cpu_field<'a>(cpuinfo: &'a str, name: &str) -> &'a str {
    let mut fields = cpuinfo.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.trim() == name).map_or("", |(_, value)| value.trim())
}

/// Whether the processor can run guests itself (Intel `vmx` or AMD `svm`). A `/dev/kvm` without it is emulated, and
/// too slow, or too incomplete, for ordinary guests.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn has_hardware_virtualization() -> Result<bool, io::Error> {
    Ok(cpu_flags()?.iter().any(|flag| flag == "vmx" || flag == "svm"))
}

/// Processors that this process may use.
///
/// # Errors
/// If the kernel does not tell.
pub fn cores() -> Result<usize, io::Error> {
    std::thread::available_parallelism().map(usize::from)
}

/// The kernel's page size in bytes.
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("every system has a page size")
}

/// The machine's memory in bytes.
#[must_use]
pub fn total_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram * u64::from(info.mem_unit)
}

/// Memory in bytes that programs can have without swapping, as the kernel estimates it.
#[must_use]
pub fn available_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse_available(&text).unwrap_or_else(total_memory)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_understood() {
        assert_eq!(parse_version("6.12.9-amd64"), (6, 12));
        assert_eq!(parse_version("6.7"), (6, 7));
        assert_eq!(parse_version("7.0-rc1+"), (7, 0));
        assert_eq!(parse_version("odd"), (0, 0));
    }

    #[test]
    fn flags_are_whole_words_of_the_right_line() {
        let text = "processor\t: 0\nvmx flags\t: ept\nflags\t\t: fpu svm_lock vmx\n\nprocessor\t: 1\n";
        assert_eq!(parse_flags(text), ["fpu", "svm_lock", "vmx"]);
        assert!(parse_flags("processor: 0\n").is_empty());
    }

    #[test]
    fn the_page_size_is_what_this_crate_counts_in() {
        assert_eq!(page_size() as u64, crate::range::PAGE_SIZE);
        assert!(total_memory() > 64 << 20);
        assert!((1..=total_memory()).contains(&available_memory()));
        assert_eq!(parse_available("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert!(cores().unwrap() > 0);
        assert!(!cpu_name().unwrap().1.is_empty());
        capabilities().unwrap();
    }
}
