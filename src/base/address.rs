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
    if to.chars().any(|char| char.is_control() || char.is_whitespace()) {
        return Err("it holds spaces or control characters".into());
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

/// Whether packets to this address may leave networks that are one's own: it is neither of this host,
/// nor private (RFC 1918, 4193), link-local, shared (RFC 6598), for benchmarks or for examples.
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => is_public_v4(address),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    let is_shared = a == 100 && b & 0xc0 == 64;
    let is_benchmark = a == 198 && b & 0xfe == 18;
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_documentation()
        || is_shared
        || is_benchmark)
}

/// What is not of `2000::/3` has no route in the internet.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    first & 0xe000 == 0x2000 && !(first == 0x2001 && second == 0xdb8)
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
            ("h\x1b[31m:1", "control characters"),
            ("a b:1", "spaces"),
        ] {
            let error = check_address(bad).unwrap_err();
            assert!(error.contains(text), "{bad}: {error}");
        }
    }

    #[test]
    fn own_networks_and_the_internet_are_told_apart() {
        for own in [
            "127.0.0.1",
            "10.1.2.3",
            "172.31.0.1",
            "192.168.0.1",
            "169.254.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "198.19.0.1",
            "192.0.2.1",
            "0.0.0.0",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(own.parse().unwrap()), "{own}");
        }
        for public in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2600::1",
            "2001:4860::1",
            "::ffff:8.8.8.8",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
