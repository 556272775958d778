//! What all components stand on: processors, memory, clocks.

use super::{Check, Component};
use crate::config::units::rounded_bytes;
use crate::runtime::proc_files::memory;
use crate::runtime::sys::wall_clock::{WallClock, wall_clock};
use std::io;

pub fn check() -> Vec<Check> {
    let source = std::fs::read_to_string(CLOCK_SOURCE).map(|text| text.trim().to_owned());
    vec![
        processors(std::thread::available_parallelism().map(usize::from)),
        total_memory(memory("MemTotal")),
        clock_source(source),
        synchronised(wall_clock()),
    ]
}

fn processors(count: io::Result<usize>) -> Check {
    let check = |found: String| Check::ok(Component::Host, "processors", found);
    match count {
        Ok(count) if count < FEW_PROCESSORS => {
            check(format!("{count} may be used")).warning(format!(
                "streams and codecs share them with guests: {FEW_PROCESSORS} or more are better"
            ))
        }
        Ok(count) => check(format!("{count} may be used")),
        Err(error) => check(format!("cannot be counted: {error}"))
            .warning("the number of threads for encoding is a guess"),
    }
}

fn total_memory(total: Option<u64>) -> Check {
    let check = |found: String| Check::ok(Component::Host, "memory", found);
    match total {
        Some(total) if total < LITTLE_MEMORY_BYTES => check(rounded_bytes(total))
            .warning("guests leave little of it to migrations: 8 GiB are better"),
        Some(total) => check(rounded_bytes(total)),
        None => check("/proc/meminfo cannot be read".to_owned())
            .warning("mount /proc in the node's container"),
    }
}

/// Each probe and each pass reads the clock; where that is a system call, it costs.
fn clock_source(source: io::Result<String>) -> Check {
    let check = |found: String| Check::ok(Component::Host, "clock source", found);
    match source {
        Ok(name) if SLOW_CLOCKS.contains(&name.as_str()) => check(name).warning(
            "reading the time is slow, and times of short paths are coarse: find out by dmesg why \
             tsc or the hypervisor's own clock is not used",
        ),
        Ok(name) => check(name),
        // As in containers without /sys; nothing is wrong with that.
        Err(error) => check(format!("unknown: {error}")),
    }
}

fn synchronised(clock: io::Result<WallClock>) -> Check {
    let check = |found: String| Check::ok(Component::Host, "wall clock", found);
    match clock {
        Ok(WallClock { is_synchronised: true, most_error_us }) => {
            check(format!("synchronised, wrong by {most_error_us} us at most"))
        }
        Ok(_) => check("not synchronised".to_owned()).warning(
            "times in logs of different hosts cannot be compared: run chrony or \
             systemd-timesyncd",
        ),
        Err(error) => check(format!("cannot be asked: {error}"))
            .warning("see to it that adjtimex is allowed by the seccomp policy"),
    }
}

const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
const SLOW_CLOCKS: [&str; 4] = ["hpet", "acpi_pm", "jiffies", "refined-jiffies"];
const FEW_PROCESSORS: usize = 4;
/// 8 GiB, less what firmware and kernel keep to themselves.
const LITTLE_MEMORY_BYTES: u64 = 7 << 30;

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_small_or_odd_host_is_warned() {
        assert_eq!(processors(Ok(2)).verdict, Verdict::Warning);
        assert_eq!(processors(Ok(4)).verdict, Verdict::Ok);
        assert_eq!(total_memory(Some(4 << 30)).verdict, Verdict::Warning);
        assert_eq!(total_memory(Some(8 << 30)).verdict, Verdict::Ok);
        assert_eq!(clock_source(Ok("hpet".to_owned())).verdict, Verdict::Warning);
        assert_eq!(clock_source(Ok("tsc".to_owned())).verdict, Verdict::Ok);
        let clock = |is_synchronised| Ok(WallClock { is_synchronised, most_error_us: 5 });
        assert_eq!(synchronised(clock(true)).verdict, Verdict::Ok);
        assert_eq!(synchronised(clock(false)).verdict, Verdict::Warning);
    }
}
