//! Sets of addresses, written as an operator writes them: addresses, and networks by prefix.

use crate::base::limits::MAX_NETWORKS;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Addresses and networks; empty: nobody's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<Network>);

/// All addresses that begin as `address` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    prefix_bits: u32,
}

/// The text is no list of networks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseNetworksError {
    /// A part of it.
    #[error("{0:?} is neither an address nor a network such as 10.0.0.0/8")]
    Part(String),
    /// A network whose address says more than its prefix.
    #[error("{part:?} has bits beyond its prefix; {network} is meant, or an address")]
    Beyond {
        /// As written.
        part: String,
        /// What it would be.
        network: String,
    },
    /// Too many parts.
    #[error("{0} addresses and networks; at most {MAX_NETWORKS} go")]
    TooMany(usize),
}

impl Networks {
    /// Whether an address is among them. One of IPv4 that came by way of IPv6 counts as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whether no address is among them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Network {
    fn contains(&self, address: IpAddr) -> bool {
        self.address.is_ipv4() == address.is_ipv4()
            && cut(address, self.prefix_bits) == self.address
    }
}

impl FromStr for Networks {
    type Err = ParseNetworksError;

    /// Reads addresses and networks with commas between them.
    fn from_str(text: &str) -> Result<Self, ParseNetworksError> {
        let parts: Vec<&str> =
            text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect();
        if parts.len() > MAX_NETWORKS {
            return Err(ParseNetworksError::TooMany(parts.len()));
        }
        parts.into_iter().map(parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, network) in self.0.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            network.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix_bits == all_bits(self.address) {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.prefix_bits),
        }
    }
}

fn parse(part: &str) -> Result<Network, ParseNetworksError> {
    let bad = || ParseNetworksError::Part(part.chars().take(64).collect());
    let (address, bits) = part.split_once('/').map_or((part, None), |(a, bits)| (a, Some(bits)));
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let prefix_bits = match bits {
        None => all_bits(address),
        Some(bits) => bits.parse().map_err(|_| bad())?,
    };
    if prefix_bits > all_bits(address) {
        return Err(bad());
    }
    let (address, prefix_bits) = canonical(address, prefix_bits);
    let network = Network { address: cut(address, prefix_bits), prefix_bits };
    if network.address != address {
        let (part, network) = (part.to_owned(), network.to_string());
        return Err(ParseNetworksError::Beyond { part, network });
    }
    Ok(network)
}

/// Addresses of IPv4 that are written as those of IPv6 are what they are: [`Networks::contains`] knows
/// them by no other name.
fn canonical(address: IpAddr, prefix_bits: u32) -> (IpAddr, u32) {
    match (address.to_canonical(), prefix_bits.checked_sub(MAPPED_BITS)) {
        (canonical, Some(bits)) if canonical != address => (canonical, bits),
        _ => (address, prefix_bits),
    }
}

/// What all addresses of IPv4 have in common that are written as those of IPv6.
const MAPPED_BITS: u32 = 96;

fn all_bits(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address without what lies beyond a prefix.
fn cut(address: IpAddr, prefix_bits: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - prefix_bits.min(32)).unwrap_or(0);
            IpAddr::V4((address.to_bits() & mask).into())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - prefix_bits.min(128)).unwrap_or(0);
            IpAddr::V6((address.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(networks: &str, address: &str) -> bool {
        networks.parse::<Networks>().unwrap().contains(address.parse().unwrap())
    }

    #[test]
    fn prefixes_decide_bit_by_bit() {
        for (networks, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.168.1.7", "192.168.1.7", "192.168.1.6"),
            ("192.168.1.128/25", "192.168.1.255", "192.168.1.127"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::/0", "ffff::", "1.2.3.4"),
            ("10.0.0.0/8, fd00::/8", "fd00::9", "9.0.0.0"),
            ("127.0.0.1", "::ffff:127.0.0.1", "::ffff:127.0.0.2"),
            ("::ffff:127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("::ffff:10.0.0.0/104", "::ffff:10.9.9.9", "11.0.0.0"),
            ("::ffff:0.0.0.0/96", "9.8.7.6", "::1"),
        ] {
            assert!(has(networks, inside), "{inside} in {networks}");
            assert!(!has(networks, outside), "{outside} in {networks}");
        }
        assert!(!has("", "127.0.0.1") && "".parse::<Networks>().unwrap().is_empty());
    }

    #[test]
    fn what_prints_reads_back() {
        for text in ["10.0.0.0/8,192.168.1.7", "fd00::/8", "0.0.0.0/0", ""] {
            assert_eq!(text.parse::<Networks>().unwrap().to_string(), text);
        }
        assert_eq!("::ffff:10.0.0.0/104".parse::<Networks>().unwrap().to_string(), "10.0.0.0/8");
        assert_eq!("1.2.3.4/32 , ::1/128".parse::<Networks>().unwrap().to_string(), "1.2.3.4,::1");
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (text, what) in [
            ("host", "\"host\" is neither"),
            ("10.0.0.0/33", "/33"),
            ("::/129", "/129"),
            ("10.0.0.0/", "neither"),
            ("10.0.0.0/-1", "neither"),
            ("1.2.3.4:80", "neither"),
            ("10.0.0.1/8", "10.0.0.0/8 is meant"),
            ("::ffff:10.0.0.1/104", "10.0.0.0/8 is meant"),
        ] {
            let error = text.parse::<Networks>().unwrap_err().to_string();
            assert!(error.contains(what), "{text}: {error}");
        }
        let many = vec!["1.2.3.4"; MAX_NETWORKS + 1].join(",");
        assert!(many.parse::<Networks>().unwrap_err().to_string().starts_with("65 addresses"));
    }
}
