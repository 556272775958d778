//! What the kernel tells about processes and this host in text files.

use std::path::Path;
use std::{fs, io};

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

/// The first word of a setting below `/proc/sys`, such as `net/ipv4/tcp_congestion_control`.
pub fn word(name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    text.split_whitespace().next().map(str::to_owned)
}

/// A line of `/proc/meminfo` in bytes.
pub fn memory(name: &str) -> Option<u64> {
    parse_memory(&fs::read_to_string("/proc/meminfo").ok()?, name)
}

/// A line of the `status` of a process, such as `/proc/self`: a count as it stands, memory in bytes.
///
/// # Errors
/// The process has ended, or there is no such line.
pub fn process_status(process: &Path, name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(process.join("status"))?;
    let found = parse_memory(&text, name).or_else(|| line(&text, name)?.parse().ok());
    found.ok_or_else(|| io::Error::other(format!("no {name} in {}/status", process.display())))
}

fn parse_memory(text: &str, name: &str) -> Option<u64> {
    line(text, name)?.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn line<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
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

    #[test]
    fn a_process_tells_of_its_memory_and_its_threads() {
        let of_self = |name| process_status(Path::new("/proc/self"), name);
        let before = of_self("VmRSS").unwrap();
        let held = vec![1_u8; 64 << 20];
        let after = of_self("VmRSS").unwrap();
        assert!(after > before + (32 << 20), "{before} {after} {}", held.len());
        assert!(of_self("Threads").unwrap() > 0);
        assert!(of_self("Colours").unwrap_err().to_string().contains("no Colours"));
        assert!(process_status(Path::new("/proc/0"), "VmRSS").is_err());
    }
}
