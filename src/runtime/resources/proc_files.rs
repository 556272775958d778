//! What the kernel tells about this process and host in text files.

use std::fs;

/// The soft limit of this process on `name`, as `/proc/self/limits` calls it; none where there is
/// no such line. No limit is `u64::MAX`.
pub fn soft_limit(name: &str) -> Option<u64> {
    parse_limit(&fs::read_to_string("/proc/self/limits").ok()?, name)
}

fn parse_limit(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The numbers of a setting below `/proc/sys`, such as `net/ipv4/tcp_rmem`.
pub fn setting(name: &str) -> Option<Vec<u64>> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// A line of `/proc/meminfo` in bytes.
pub fn memory(name: &str) -> Option<u64> {
    parse_memory(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

fn parse_memory(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_and_none_is_the_largest() {
        let text = "Limit            Soft Limit    Hard Limit   Units\n\
                    Max open files   1024          4096         files\n\
                    Max locked memory  unlimited   unlimited    bytes\n";
        assert_eq!(parse_limit(text, "Max open files"), Some(1024));
        assert_eq!(parse_limit(text, "Max locked memory"), Some(u64::MAX));
        assert_eq!(parse_limit(text, "Max colours"), None);
        assert!(soft_limit("Max open files") > Some(2));
    }

    #[test]
    fn sizes_are_read_in_bytes() {
        let text = "MemTotal:  100 kB\nMemAvailable:   7 kB\nHugePages_Total: 3\n";
        assert_eq!(parse_memory(text, "MemAvailable"), Some(7168));
        assert_eq!(parse_memory(text, "Mem"), None);
        assert_eq!(parse_memory(text, "HugePages_Total"), None);
        assert!(memory("MemTotal") > Some(1 << 20));
        assert_eq!(setting("net/ipv4/tcp_rmem").map(|three| three.len()), Some(3));
    }
}
