//! What streams over TCP need: congestion control, socket buffers, descriptors.

use super::{Check, Component, KnownPath, Settings};
use crate::config::Id;
use crate::config::units::rounded_bytes;
use crate::runtime::proc_files::{setting, soft_limit};
use crate::runtime::sys::socket::{SocketError, set_congestion_control, set_send_buffer};
use std::net::TcpListener;

pub fn check(settings: &Settings) -> Vec<Check> {
    let wanted = settings.config.text(Id::AmstCongestionAlgorithm);
    let mut checks = vec![congestion(wanted, &try_bbr())];
    let paths = paths(settings);
    let most = |name| setting(name).and_then(|sizes| sizes.last().copied());
    checks.push(send_buffers(most("net/ipv4/tcp_wmem"), &paths, try_send_buffer));
    checks.push(receive_buffers(most("net/ipv4/tcp_rmem"), &paths));
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    checks.push(descriptors(soft_limit("Max open files"), open));
    checks
}

/// A path, and how many streams share it.
struct Need {
    path: KnownPath,
    streams: u64,
}

impl Need {
    /// What one stream must keep on its way to fill its part of the path.
    fn stream_bytes(&self) -> u64 {
        let product =
            u128::from(self.path.rate_bytes_per_s) * u128::from(self.path.rtt_us) / 1_000_000;
        u64::try_from(product).unwrap_or(u64::MAX) / self.streams.max(1)
    }

    /// The buffer for that: the kernel counts its own overhead too, about as much as the data.
    fn buffer_bytes(&self) -> u64 {
        self.stream_bytes().saturating_mul(2)
    }

    fn text(&self) -> String {
        format!(
            "{} over {} streams needs {} for each",
            self.path.peer,
            self.streams,
            rounded_bytes(self.buffer_bytes())
        )
    }
}

/// The long fat path that everybody should be ready for, and those that were measured.
fn paths(settings: &Settings) -> Vec<Need> {
    let streams = settings.config.integer(Id::MigrationStreams);
    let most = settings.config.integer(Id::AmstInternetStreams);
    let reference = KnownPath {
        peer: "a path of 1 Gbit/s and 100 ms".to_owned(),
        rate_bytes_per_s: 125_000_000,
        rtt_us: 100_000,
    };
    let all = std::iter::once(reference).chain(settings.paths.iter().cloned());
    all.map(|path| Need { path, streams: streams.min(most) }).collect()
}

/// What a real socket answers when it is asked for BBR.
fn try_bbr() -> Result<String, String> {
    let socket = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    set_congestion_control(&socket, BBR).map_err(|error: SocketError| error.to_string())
}

fn congestion(wanted: &str, answer: &Result<String, String>) -> Check {
    let check = |found: String| Check::ok(Component::Amst, "BBR congestion control", found);
    match answer {
        Ok(name) if name == BBR => check("available".to_owned()),
        Ok(other) => check(format!("asked for {BBR}, the kernel gave {other}"))
            .warning("long paths with loss are slower: modprobe tcp_bbr"),
        Err(reason) if wanted == BBR => check(format!("not available: {reason}")).warning(
            "long paths with loss are slower: modprobe tcp_bbr, and add bbr to \
             net.ipv4.tcp_allowed_congestion_control for nodes that do not run as root",
        ),
        Err(reason) => {
            check(format!("not available, and {wanted} is configured instead: {reason}"))
        }
    }
}

/// What the kernel makes of a wish for a send buffer, as a stream has it when the kernel's own is too
/// small: the limit does not bind who may administer the network.
fn try_send_buffer(bytes: u64) -> Result<u64, String> {
    let socket = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| error.to_string())?;
    // It makes twice of what it is asked for.
    let wish = u32::try_from(bytes.div_ceil(2)).unwrap_or(u32::MAX).min(i32::MAX as u32 / 2);
    set_send_buffer(&socket, wish).map(u64::from).map_err(|error| error.to_string())
}

fn send_buffers(
    limit: Option<u64>,
    paths: &[Need],
    ask: impl Fn(u64) -> Result<u64, String>,
) -> Check {
    let check = |found: String| Check::ok(Component::Amst, "send buffers", found);
    let Some(limit) = limit else { return check(unreadable(WMEM)).warning(MOUNT_SYS) };
    let Some(worst) = paths.iter().max_by_key(|need| need.buffer_bytes()) else {
        return check(format!("{WMEM} is at most {}", rounded_bytes(limit)));
    };
    let needed = worst.buffer_bytes();
    let own = format!("{WMEM} is at most {}; {}", rounded_bytes(limit), worst.text());
    if limit >= needed {
        return check(own);
    }
    let (found, got) = match ask(needed) {
        Ok(got) => (format!("{own}; a socket that asked for it got {}", rounded_bytes(got)), got),
        Err(reason) => (format!("{own}; a socket cannot ask for it: {reason}"), 0),
    };
    if got >= needed {
        return check(found);
    }
    check(found).warning(format!(
        "such a path is not filled: raise the largest size in {WMEM} to {needed} by /etc/sysctl.d, \
         give the node CAP_NET_ADMIN, or use more streams"
    ))
}

/// The library sets none: the kernel lets them grow as a path needs it, up to its limit.
fn receive_buffers(limit: Option<u64>, paths: &[Need]) -> Check {
    let check = |found: String| Check::ok(Component::Amst, "receive buffers", found);
    let Some(limit) = limit else { return check(unreadable(RMEM)).warning(MOUNT_SYS) };
    let own = format!("{RMEM} is at most {}", rounded_bytes(limit));
    let Some(worst) = paths.iter().max_by_key(|need| need.buffer_bytes()) else {
        return check(own);
    };
    let check = check(format!("{own}; {}", worst.text()));
    match worst.buffer_bytes() {
        needed if needed > limit => check.warning(format!(
            "guests that come over such a path do not fill it: raise the largest size in {RMEM} to \
             {needed} by /etc/sysctl.d, or use more streams"
        )),
        _ => check,
    }
}

fn unreadable(name: &str) -> String {
    format!("{name} cannot be read")
}

fn descriptors(limit: Option<u64>, open: u64) -> Check {
    let check = |found: String| Check::ok(Component::Amst, "descriptors", found);
    let Some(limit) = limit else {
        return check("the limit cannot be read".to_owned())
            .warning("mount /proc in the node's container");
    };
    let left = limit.saturating_sub(open);
    let found = format!("{open} of {limit} in use; a migration takes up to {FOR_ONE_MIGRATION}");
    let advice = "raise LimitNOFILE in the unit, or ulimit -n, to 65536";
    match left / FOR_ONE_MIGRATION {
        0 => check(found).failed(format!("no migration with all its streams can start: {advice}")),
        fit if fit < GOOD_MIGRATIONS => {
            check(found).warning(format!("{fit} migrations at a time fit: {advice}"))
        }
        _ => check(found),
    }
}

const BBR: &str = "bbr";
const WMEM: &str = "net.ipv4.tcp_wmem";
const RMEM: &str = "net.ipv4.tcp_rmem";
const MOUNT_SYS: &str = "mount /proc/sys in the node's container";
/// 64 streams, and what a QEMU's channels, records and held pages take.
const FOR_ONE_MIGRATION: u64 = 96;
/// So many at a time should fit.
const GOOD_MIGRATIONS: u64 = 8;

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_kernel_without_bbr_matters_to_who_wants_it() {
        let missing = Err("No such file or directory".to_owned());
        assert_eq!(congestion("bbr", &Ok("bbr".to_owned())).verdict, Verdict::Ok);
        let check = congestion("bbr", &missing);
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.found.contains("No such file") && check.advice.unwrap().contains("tcp_bbr"));
        assert_eq!(congestion("cubic", &missing).verdict, Verdict::Ok);
        assert_eq!(congestion("bbr", &Ok("cubic".to_owned())).verdict, Verdict::Warning);
    }

    #[test]
    fn buffers_are_judged_by_the_hungriest_path() {
        let known = KnownPath {
            peer: "far:1".to_owned(),
            rate_bytes_per_s: 1_250_000_000,
            rtt_us: 200_000,
        };
        let settings = Settings { paths: vec![known], ..Settings::default() };
        let paths = paths(&settings);
        // 1 Gbit/s at 100 ms are 12.5 MB on the way, over eight streams.
        assert_eq!(paths[0].stream_bytes(), 1_562_500);
        // 10 Gbit/s at 200 ms are 250 MB.
        assert_eq!(paths[1].stream_bytes(), 31_250_000);
        let judge = |limit| receive_buffers(limit, &paths);
        assert_eq!(judge(Some(62_500_000)).verdict, Verdict::Ok);
        let small = judge(Some(62_499_999));
        assert_eq!(small.verdict, Verdict::Warning);
        assert!(small.found.contains("far:1 over 8 streams"), "{}", small.found);
        let advice = small.advice.unwrap();
        assert!(advice.contains("in net.ipv4.tcp_rmem to 62500000"), "{advice}");
        assert_eq!(judge(None).verdict, Verdict::Warning);
        assert_eq!(receive_buffers(Some(3_125_000), &paths[..1]).verdict, Verdict::Ok);
        assert_eq!(receive_buffers(Some(3_124_999), &paths[..1]).verdict, Verdict::Warning);
    }

    /// Where the kernel's own buffers are too small a stream asks for more, so what counts is what it
    /// is given then, not which limit stands where.
    #[test]
    fn send_buffers_are_judged_by_what_a_socket_gets() {
        let paths = paths(&Settings::default());
        let judge = |limit, got: Result<u64, &str>| {
            send_buffers(limit, &paths, |bytes| {
                assert_eq!(bytes, 3_125_000);
                got.map_err(str::to_owned)
            })
        };
        assert_eq!(judge(Some(3_125_000), Err("not asked")).verdict, Verdict::Ok);
        assert_eq!(judge(Some(4096), Ok(3_125_000)).verdict, Verdict::Ok);
        let small = judge(Some(4096), Ok(425_984));
        assert_eq!(small.verdict, Verdict::Warning);
        assert!(small.found.contains("got 416.00 KiB"), "{}", small.found);
        assert!(small.advice.unwrap().contains("in net.ipv4.tcp_wmem to 3125000"));
        assert_eq!(judge(Some(4096), Err("no")).verdict, Verdict::Warning);
        assert_eq!(judge(None, Ok(0)).verdict, Verdict::Warning);
        assert!(try_send_buffer(64 << 10).unwrap() >= 64 << 10);
    }

    #[test]
    fn descriptors_must_do_for_one_migration_at_least() {
        let verdict = |limit, open| descriptors(Some(limit), open).verdict;
        assert_eq!(verdict(256, 200), Verdict::Failed);
        assert_eq!(verdict(256, 60), Verdict::Warning);
        assert_eq!(verdict(1024, 60), Verdict::Ok);
        assert_eq!(verdict(u64::MAX, 60), Verdict::Ok);
        assert_eq!(descriptors(None, 0).verdict, Verdict::Warning);
    }
}
