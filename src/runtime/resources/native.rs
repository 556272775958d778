//! What guests of hypervisors that link the library need: KVM, and a kernel that tracks writes.

use super::{Check, Component};
use crate::runtime::sys::TrackingError;
use crate::runtime::sys::tracking_support::{Support, probe};
use std::fs::OpenOptions;
use std::io;

pub fn check() -> Vec<Check> {
    let opened = OpenOptions::new().read(true).write(true).open(KVM).map(drop);
    vec![kvm(opened), tracking(probe())]
}

fn kvm(opened: io::Result<()>) -> Check {
    let check = |found: String| Check::ok(Component::Native, "KVM", found);
    let error = match opened {
        Ok(()) => return check(format!("{KVM} opens")),
        Err(error) => error,
    };
    let advice = match error.kind() {
        io::ErrorKind::NotFound => {
            "guests run by translation alone: load kvm_intel or kvm_amd, and turn on \
             virtualisation in the firmware"
        }
        io::ErrorKind::PermissionDenied => "put the hypervisor's user into the group kvm",
        _ => "guests run by translation alone",
    };
    check(format!("{KVM}: {error}")).warning(advice)
}

fn tracking(probed: Result<Support, TrackingError>) -> Check {
    let check = |found: String| Check::ok(Component::Native, "write tracking", found);
    match probed {
        Ok(Support::Call) => check("userfaultfd and PAGEMAP_SCAN work".to_owned()),
        Ok(Support::Device) => {
            check("/dev/userfaultfd and PAGEMAP_SCAN work; the system call is refused".to_owned())
        }
        Err(error) => check(error.to_string())
            .warning("only hypervisors with a dirty log of their own, such as KVM's, can migrate"),
    }
}

const KVM: &str = "/dev/kvm";

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn each_reason_has_its_remedy() {
        assert_eq!(kvm(Ok(())).verdict, Verdict::Ok);
        let advice = |kind: io::ErrorKind| kvm(Err(kind.into())).advice.unwrap();
        assert!(advice(io::ErrorKind::PermissionDenied).contains("group kvm"));
        assert!(advice(io::ErrorKind::NotFound).contains("kvm_intel"));
        assert_eq!(tracking(Ok(Support::Device)).verdict, Verdict::Ok);
        let old = TrackingError::Kernel { release: "6.1".into(), missing: "PAGEMAP_SCAN".into() };
        let check = tracking(Err(old));
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.found.contains("lacks PAGEMAP_SCAN"), "{}", check.found);
    }
}
