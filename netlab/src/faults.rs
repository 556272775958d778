//! What a hostile path does to TCP packets: changes a bit of what they carry, or breaks their
//! connection by a reset in their place.
//!
//! Packets that the kernel gives to the emulator carry no checksum of TCP's yet, and the kernel that
//! gets them does not ask for one. So a changed bit is one that TCP has not noticed: it arrives.

use crate::segments::{VNET_HEADER_BYTES, fold, pseudo_header_sum, sum_words, u16_at};
use std::ops::Range;

/// A TCP packet with its virtio_net_hdr, by its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpPacket {
    /// Source and destination port.
    pub ports: (u16, u16),
    /// Where the TCP header begins, counted from the IP header.
    transport: usize,
    /// What it carries, counted from the start of all.
    payload: Range<usize>,
    ipv6: bool,
    flags: u8,
}

impl TcpPacket {
    /// Looks at a packet as read from a TUN device; none if it is no TCP, or a fragment.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let ip = bytes.get(VNET_HEADER_BYTES..)?;
        let (transport, protocol, ipv6) = match ip.first()? >> 4 {
            4 if u16_at(ip.get(..8)?, 6) & NOT_WHOLE == 0 => {
                (usize::from(ip[0] & 0xf) * 4, *ip.get(9)?, false)
            }
            6 => (40, *ip.get(6)?, true),
            _ => return None,
        };
        let header = ip.get(transport..transport + TCP_HEADER_BYTES).filter(|_| protocol == TCP)?;
        let start = VNET_HEADER_BYTES + transport + usize::from(header[12] >> 4) * 4;
        (start <= bytes.len()).then_some(Self {
            ports: (u16_at(header, 0), u16_at(header, 2)),
            transport,
            payload: start..bytes.len(),
            ipv6,
            flags: header[13],
        })
    }

    /// Whether it is part of an open connection and carries something.
    pub fn carries_data(&self) -> bool {
        !self.payload.is_empty() && self.flags & (FIN | SYN | RST) == 0
    }

    /// Changes one bit of what it carries; `draw` decides which.
    pub fn damage(&self, bytes: &mut [u8], draw: u64) {
        let length = self.payload.len() as u64 * 8;
        if let Some(bit) = draw.checked_rem(length) {
            bytes[self.payload.start + (bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }

    /// Makes it a reset of its connection, without what it carried; gives its new length.
    pub fn make_reset(&self, bytes: &mut [u8]) -> usize {
        let length = VNET_HEADER_BYTES + self.transport + TCP_HEADER_BYTES;
        let (vnet, ip) = bytes[..length].split_at_mut(VNET_HEADER_BYTES);
        // Its checksum is partial, as of every packet; it is no super-packet any more.
        vnet.fill(0);
        vnet[0] = NEEDS_CHECKSUM;
        vnet[6..8].copy_from_slice(&(self.transport as u16).to_ne_bytes());
        vnet[8..10].copy_from_slice(&(CHECKSUM_AT as u16).to_ne_bytes());
        if self.ipv6 {
            ip[4..6].copy_from_slice(&(TCP_HEADER_BYTES as u16).to_be_bytes());
        } else {
            let total = ip.len() as u16;
            ip[2..4].copy_from_slice(&total.to_be_bytes());
            ip[10..12].fill(0);
            let checksum = !fold(sum_words(&ip[..self.transport]));
            ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        let pseudo = fold(pseudo_header_sum(ip, self.ipv6, TCP_HEADER_BYTES));
        let header = &mut ip[self.transport..];
        header[12] = (TCP_HEADER_BYTES as u8 / 4) << 4;
        header[13] = RST | ACK;
        header[14..16].fill(0);
        header[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&pseudo.to_be_bytes());
        header[18..20].fill(0);
        length
    }
}

/// More fragments, or an offset.
const NOT_WHOLE: u16 = 0x3fff;
const TCP: u8 = 6;
const TCP_HEADER_BYTES: usize = 20;
const CHECKSUM_AT: usize = 16;
const NEEDS_CHECKSUM: u8 = 1;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![1, 1, 54, 0, 4, 0, 20, 0, 16, 0];
        let mut ip = vec![0x45, 0, 0, 0, 0, 9, 0x40, 0, 64, 6, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2];
        ip[2..4].copy_from_slice(&((52 + payload.len()) as u16).to_be_bytes());
        packet.extend_from_slice(&ip);
        // Twelve bytes of options behind the header.
        packet.extend_from_slice(&[0x1b, 0x58, 0, 80, 0, 0, 0, 7, 0, 0, 0, 9, 0x80, flags, 1, 0]);
        packet.extend_from_slice(&[0; 16]);
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn one_bit_of_what_it_carries_is_changed_and_nothing_else() {
        let whole = packet(ACK, b"some bytes");
        let tcp = TcpPacket::parse(&whole).unwrap();
        assert_eq!((tcp.ports, tcp.carries_data()), ((7000, 80), true));
        let headers = whole.len() - 10;
        for draw in 0..200 {
            let mut bytes = whole.clone();
            tcp.damage(&mut bytes, draw);
            assert_eq!(bytes[..headers], whole[..headers]);
            let changed: u32 = bytes.iter().zip(&whole).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(changed, 1);
        }
    }

    #[test]
    fn packets_that_open_close_or_carry_nothing_are_left_alone() {
        for (flags, payload) in [(SYN, &b""[..]), (ACK, b""), (ACK | FIN, b"x"), (RST, b"x")] {
            assert!(!TcpPacket::parse(&packet(flags, payload)).unwrap().carries_data());
        }
        let mut udp = packet(ACK, b"x");
        udp[VNET_HEADER_BYTES + 9] = 17;
        let mut fragment = packet(ACK, b"x");
        fragment[VNET_HEADER_BYTES + 7] = 8;
        let short = packet(ACK, b"x")[..40].to_vec();
        for other in [udp, fragment, short, vec![], vec![0; 12]] {
            assert_eq!(TcpPacket::parse(&other), None);
        }
        let mut nothing = packet(ACK, b"");
        let before = nothing.clone();
        TcpPacket::parse(&before).unwrap().damage(&mut nothing, 3);
        assert_eq!(nothing, before);
    }

    #[test]
    fn a_reset_takes_the_packets_place_in_its_connection() {
        let mut bytes = packet(ACK, b"some bytes");
        let length = TcpPacket::parse(&bytes).unwrap().make_reset(&mut bytes);
        bytes.truncate(length);
        assert_eq!(length, VNET_HEADER_BYTES + 40);
        let reset = TcpPacket::parse(&bytes).unwrap();
        assert_eq!((reset.ports, reset.flags), ((7000, 80), RST | ACK));
        assert!(reset.payload.is_empty());
        let ip = &bytes[VNET_HEADER_BYTES..];
        assert_eq!(u16_at(ip, 2), 40);
        assert_eq!(fold(sum_words(&ip[..20])), 0xffff, "the IPv4 header's checksum holds");
        assert_eq!(&ip[24..32], [0, 0, 0, 7, 0, 0, 0, 9], "it stands where the packet stood");
        assert_eq!(u16_at(ip, 36), fold(pseudo_header_sum(ip, false, 20)));
    }
}
