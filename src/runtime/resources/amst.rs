//! What streams over TCP need: congestion control, socket buffers, descriptors.

use super::proc_files::{setting, soft_limit};
use super::{Check, Component, KnownPath, Settings, size};
use crate::config::Id;
use crate::runtime::sys::socket::{SocketError, set_congestion_control};
use std::net::TcpListener;

pub fn check(settings: &Settings) -> Vec<Check> {
    let wanted = settings.config.text(Id::AmstCongestionAlgorithm);
    let mut checks = vec![congestion(wanted, &try_bbr())];
    let paths = paths(settings);
    for (what, name, at) in BUFFERS {
        checks.push(buffer(what, name, setting(name).and_then(|all| all.get(at).copied()), &paths));
    }
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
}

/// The long fat path that everybody should be ready for, and those that were measured.
fn paths(settings: &Settings) -> Vec<Need> {
    let streams = settings.config.integer(Id::MigrationStreams);
    let most = settings.config.integer(Id::AmstInternetStreams);
    let reference = KnownPath {
        peer: "a path of 1 Gbit/s and 100 ms".to_owned(),
        rate_bytes_per_s: 62_500_000,
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

fn buffer(what: &'static str, name: &str, limit: Option<u64>, paths: &[Need]) -> Check {
    let check = |found: String| Check::ok(Component::Amst, what, found);
    let name = name.replace('/', ".");
    let Some(limit) = limit else {
        return check(format!("{name} cannot be read"))
            .warning("mount /proc/sys in the node's container");
    };
    // The kernel counts its own overhead too, about as much as the data.
    let needs = |need: &Need| need.stream_bytes().saturating_mul(2);
    let Some(worst) = paths.iter().max_by_key(|need| needs(need)) else {
        return check(format!("at most {}", size(limit)));
    };
    let found = format!(
        "{name} is at most {}; {} over {} streams needs {} for each",
        size(limit),
        worst.path.peer,
        worst.streams,
        size(needs(worst)),
    );
    if limit >= needs(worst) {
        return check(found);
    }
    check(found).warning(format!(
        "such a path is not filled: raise the largest size in {name} to {} by /etc/sysctl.d, or use \
         more streams",
        needs(worst)
    ))
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
/// What, the kernel's setting, and which of its numbers is the largest size.
const BUFFERS: [(&str, &str, usize); 4] = [
    ("send buffers, by the kernel", "net/ipv4/tcp_wmem", 2),
    ("receive buffers, by the kernel", "net/ipv4/tcp_rmem", 2),
    ("send buffers, by size", "net/core/wmem_max", 0),
    ("receive buffers, by size", "net/core/rmem_max", 0),
];
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
        // 10 Gbit/s at 200 ms are 250 MB on the way, over eight streams, twice.
        assert_eq!(paths[1].stream_bytes(), 31_250_000);
        let judge = |limit| buffer("x", "net/ipv4/tcp_wmem", limit, &paths);
        assert_eq!(judge(Some(62_500_000)).verdict, Verdict::Ok);
        let small = judge(Some(62_499_999));
        assert_eq!(small.verdict, Verdict::Warning);
        assert!(small.found.contains("far:1 over 8 streams"), "{}", small.found);
        let advice = small.advice.unwrap();
        assert!(advice.contains("in net.ipv4.tcp_wmem to 62500000"), "{advice}");
        assert_eq!(judge(None).verdict, Verdict::Warning);
        let reference = buffer("x", "n", Some(6_250_000), &paths[..1]);
        assert_eq!(reference.verdict, Verdict::Ok, "{reference:?}");
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
