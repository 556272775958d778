//! Addresses of peers: the form `HOST:PORT`, and which hosts are on the public internet.

use crate::base::limits::MAX_ADDRESS_BYTES;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Checks the form of `HOST:PORT` without asking any name server.
///
/// # Errors
/// What is wrong with it.
pub fn check_address(to: &str) -> Result<(), String> {
    if to.len() > MAX_ADDRESS_BYTES {
        return Err(format!("it is longer than {MAX_ADDRESS_BYTES} bytes"));
    }
    let (host, port) = to.rsplit_once(':').ok_or("no port")?;
    if host.is_empty() || host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return Err("the host is empty, or an IPv6 address without brackets".into());
    }
    match port.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("port {port:?} is not 1 to 65535")),
        Ok(_) => Ok(()),
    }
}

/// Whether packets to or from this address may cross the public internet: whatever is not known to be
/// an address within one host, link or organisation.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => !is_local_v4(address),
        IpAddr::V6(address) => !is_local_v6(address),
    }
}

fn is_local_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    // The last two: shared by a carrier's customers, and laboratories.
    address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_unspecified()
        || (first == 100 && second & 0xc0 == 64)
        || (first == 198 && second & 0xfe == 18)
}

fn is_local_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_before_anything_is_dialed() {
        for good in ["host:1", "10.0.0.1:65535", "[::1]:7"] {
            assert_eq!(check_address(good), Ok(()));
        }
        for (bad, text) in [
            ("host", "no port"),
            (":1", "empty"),
            ("::1:7", "brackets"),
            ("h:0", "\"0\""),
            ("h:x", "\"x\""),
        ] {
            let error = check_address(bad).unwrap_err();
            assert!(error.contains(text), "{bad}: {error}");
        }
    }

    #[test]
    fn what_is_not_known_to_be_local_is_public() {
        for local in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.255.255",
            "192.168.0.1",
            "169.254.9.9",
            "100.64.0.1",
            "100.127.255.255",
            "198.19.0.1",
            "0.0.0.0",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(local.parse().unwrap()), "{local}");
        }
        for public in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "203.0.113.9",
            "2001:db8::1",
            "2a00::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
