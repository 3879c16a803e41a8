//! Owns the reading of what QEMU's human monitor says about memory.

/// A line of `info ramblock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockLine {
    /// The block's name.
    pub name: String,
    /// Bytes in use.
    pub used: u64,
    /// Bytes it may grow to.
    pub total: u64,
    /// Where the process has it; QEMU 8.0 and newer tell.
    pub host: Option<u64>,
    /// Whether the guest may only read it; newer QEMUs tell.
    pub read_only: Option<bool>,
}

/// Reads the answer to `info ramblock`. The error is the line that cannot be understood.
///
/// The columns are name, page size (with its unit), offset, used, total, then since 8.0 the host address, and later
/// `ro` or `rw`. (QEMU softmmu/physmem.c `ram_block_format`)
///
/// # Errors
/// The first line that is not of this form.
pub fn ram_blocks(text: &str) -> Result<Vec<BlockLine>, String> {
    let is_header = |line: &str| line.trim_start().starts_with("Block Name");
    text.lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !is_header(line))
        .map(|line| block_line(line).ok_or_else(|| line.to_string()))
        .collect()
}

fn block_line(line: &str) -> Option<BlockLine> {
    let mut words: Vec<&str> = line.split_whitespace().collect();
    let read_only = match *words.last()? {
        "ro" => Some(true),
        "rw" => Some(false),
        _ => None,
    };
    if read_only.is_some() {
        words.pop();
    }
    let first = words.len() - words.iter().rev().take_while(|word| word.starts_with("0x")).count();
    let numbers = words[first..].iter().map(|w| hexadecimal(w)).collect::<Option<Vec<u64>>>()?;
    let (used, total, host) = match numbers[..] {
        [_offset, used, total] => (used, total, None),
        [_offset, used, total, host] => (used, total, Some(host).filter(|h| *h != 0)),
        _ => return None,
    };
    // The page size is two words, such as `4 KiB`; the name is all before it.
    let name = words[..first.checked_sub(2)?].join(" ");
    (!name.is_empty() && used <= total).then_some(BlockLine { name, used, total, host, read_only })
}

fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

/// Reads the answer to `gpa2hva`: the block at a guest address, and the host address of that byte.
///
/// `Host virtual address for 0xffff0000 (pc.bios) is 0x7f7b1a600000`
#[must_use]
pub fn host_address(text: &str) -> Option<(String, u64)> {
    let (_, rest) = text.trim().strip_prefix("Host virtual address for ")?.split_once(" (")?;
    let (name, address) = rest.rsplit_once(") is ")?;
    Some((name.to_string(), hexadecimal(address)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_table_of_7_2_has_no_addresses() {
        let text = "              Block Name    PSize              Offset               Used              Total\r\n\
            \x20                   ram0    4 KiB  0x0000000000000000 0x0000000004000000 0x0000000004000000\r\n\
            \x20   /rom@etc/acpi/tables    4 KiB  0x0000000004080000 0x0000000000020000 0x0000000000200000\r\n";
        let blocks = ram_blocks(text).unwrap();
        assert_eq!(blocks[0].name, "ram0");
        let expected = BlockLine {
            name: "/rom@etc/acpi/tables".into(),
            used: 0x20000,
            total: 0x20_0000,
            host: None,
            read_only: None,
        };
        assert_eq!(blocks[1..], [expected]);
    }

    #[test]
    fn the_table_of_later_versions_has_more() {
        let line = "pc.bios    4 KiB  0x0000000080000000 0x0000000000040000 0x0000000000040000 0x00007f1e84e00000  ro";
        let blocks = ram_blocks(line).unwrap();
        assert_eq!((blocks[0].host, blocks[0].read_only), (Some(0x7f1e_84e0_0000), Some(true)));
    }

    #[test]
    fn lines_that_are_not_understood_are_named() {
        for bad in
            ["pc.bios", "x 4 KiB 0x0 0x1", "4 KiB 0x0 0x1 0x1", "x 4 KiB 0x0 0x2 0x1", "x 4 KiB 0x0 0xg 0x1"]
        {
            assert_eq!(ram_blocks(bad), Err(bad.to_string()));
        }
    }

    #[test]
    fn host_addresses_are_read_with_their_block() {
        let text = "Host virtual address for 0xffff0000 (pc.bios) is 0x7f7b1a600000\r\n";
        assert_eq!(host_address(text), Some(("pc.bios".into(), 0x7f7b_1a60_0000)));
        assert_eq!(host_address("No memory is mapped at address 0xfffff"), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(\\PC|0x[0-9a-f]{0,20}| |\n|ro|KiB){0,40}") {
            let _ = ram_blocks(&text);
            let _ = host_address(&text);
        }

        #[test]
        fn every_table_is_read_back(name in "[a-z/@.:0-9-]{1,40}", used in any::<u64>(), host in 1_u64..) {
            let old = format!("{name}    4 KiB  0x{:016x} 0x{used:016x} 0x{used:016x}", 0);
            let new = format!("{old} 0x{host:016x}  rw");
            let expected = BlockLine { name, used, total: used, host: None, read_only: None };
            prop_assert_eq!(ram_blocks(&old), Ok(vec![expected.clone()]));
            let expected = BlockLine { host: Some(host), read_only: Some(false), ..expected };
            prop_assert_eq!(ram_blocks(&new), Ok(vec![expected]));
        }
    }
}
