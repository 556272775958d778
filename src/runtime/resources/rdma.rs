//! What streams over RDMA need: a device that answers, and memory that may be locked.

use super::{Check, Component, Settings};
use crate::config::units::rounded_bytes;
use crate::runtime::proc_files::soft_limit;
use crate::runtime::rdma::{DeviceReport, KERNEL_DEVICES, Port, Unavailable, probe};

pub fn check(settings: &Settings) -> Vec<Check> {
    let has_hardware =
        std::fs::read_dir(KERNEL_DEVICES).is_ok_and(|mut entries| entries.next().is_some());
    let probed = probe();
    let largest = settings.guest_bytes.iter().copied().max();
    let locked = locked_memory(soft_limit("Max locked memory"), largest, probed.is_ok());
    vec![devices(&probed, has_hardware), locked]
}

fn devices(probed: &Result<Vec<DeviceReport>, Unavailable>, has_hardware: bool) -> Check {
    let check = |found: String| Check::ok(Component::Rdma, "devices", found);
    match probed {
        Ok(devices) => {
            let ports = devices.iter().flat_map(|device| {
                let port =
                    |port: &Port| format!("{} port {} is {}", device.name, port.number, port.state);
                device.ports.iter().map(port).collect::<Vec<_>>()
            });
            check(ports.collect::<Vec<_>>().join(", "))
        }
        // Nothing is missing on a host that was never to have any.
        Err(reason) if !has_hardware => {
            check(format!("unavailable, because {reason}; TCP carries everything"))
        }
        Err(reason) => check(format!("unavailable, because {reason}"))
            .warning("this host has RDMA devices that lie idle, and TCP carries everything"),
    }
}

/// RDMA keeps guest memory in its place, which counts as locked.
fn locked_memory(limit: Option<u64>, largest: Option<u64>, has_rdma: bool) -> Check {
    let check = |found: String| Check::ok(Component::Rdma, "lockable memory", found);
    let limit = match limit {
        Some(u64::MAX) => return check("no limit".to_owned()),
        Some(limit) => limit,
        None => {
            return check("the limit cannot be read".to_owned())
                .warning("mount /proc in the node's container");
        }
    };
    let found = format!("at most {}", rounded_bytes(limit));
    if !has_rdma {
        return check(format!("{found}; matters to RDMA alone"));
    }
    let advice = "set LimitMEMLOCK=infinity in the unit, or ulimit -l unlimited";
    match largest {
        Some(largest) if largest > limit => {
            check(format!("{found}; the largest guest has {}", rounded_bytes(largest)))
                .failed(format!("its memory cannot be registered with a device: {advice}"))
        }
        None if limit < SMALL_GUEST_BYTES => {
            check(found).warning(format!("hardly any guest's memory can be registered: {advice}"))
        }
        _ => check(found),
    }
}

const SMALL_GUEST_BYTES: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_host_without_devices_lacks_nothing_and_one_with_idle_ones_does() {
        let without = devices(&Err(Unavailable::NoDevices), false);
        assert_eq!(without.verdict, Verdict::Ok);
        assert!(without.found.contains("there is no RDMA device"), "{}", without.found);
        let ports = "mlx5_0 port 1 is down".to_owned();
        let idle = devices(&Err(Unavailable::PortDown { ports }), true);
        assert_eq!(idle.verdict, Verdict::Warning);
        assert!(idle.found.contains("mlx5_0 port 1 is down"), "{}", idle.found);
    }

    #[test]
    fn lockable_memory_is_judged_by_the_largest_guest_where_there_is_rdma() {
        let verdict = |limit, largest, has| locked_memory(Some(limit), largest, has).verdict;
        assert_eq!(verdict(8 << 20, Some(1 << 30), false), Verdict::Ok);
        assert_eq!(verdict(8 << 20, Some(1 << 30), true), Verdict::Failed);
        assert_eq!(verdict(8 << 20, None, true), Verdict::Warning);
        assert_eq!(verdict(2 << 30, Some(1 << 30), true), Verdict::Ok);
        assert_eq!(verdict(u64::MAX, Some(1 << 30), true), Verdict::Ok);
        assert_eq!(locked_memory(None, None, true).verdict, Verdict::Warning);
    }
}
