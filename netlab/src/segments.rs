//! Super-packets: what a TUN device with segmentation offload hands over, and how it is cut.
//!
//! ```text
//! | virtio_net_hdr, 10 bytes | IP header | TCP or UDP header | payload of N segments |
//! ```
//!
//! Each segment is one packet on a real wire, so queue, timing and loss are decided for each. The
//! survivors that arrive together travel on as one smaller super-packet, which costs a single
//! system call and changes nothing that the receiver can see.

use std::ops::Range;

/// Length of the header before every packet.
pub const VNET_HEADER_BYTES: usize = 10;

/// A view of one packet with its virtio_net_hdr.
#[derive(Clone, Copy, Debug)]
pub struct SuperPacket<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

/// Where the parts of a super-packet are, counted from the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    transport: usize,
    payload: usize,
    segment_bytes: usize,
    segments: usize,
    tcp: bool,
    ipv6: bool,
}

impl<'a> SuperPacket<'a> {
    /// Looks at a packet as read from a TUN device. What is no super-packet, or none that can be
    /// cut, counts as a single segment.
    pub fn parse(bytes: &'a [u8]) -> Self {
        let layout = Layout::parse(bytes).unwrap_or(Layout {
            transport: 0,
            payload: 0,
            segment_bytes: 0,
            segments: 1,
            tcp: false,
            ipv6: false,
        });
        Self { bytes, layout }
    }

    /// The code point of differentiated services that it is marked with.
    pub fn dscp(&self) -> u8 {
        let byte = |at: usize| self.bytes.get(VNET_HEADER_BYTES + at).copied().unwrap_or(0);
        match byte(0) >> 4 {
            6 => (byte(0) & 0x0f) << 2 | byte(1) >> 6,
            _ => byte(1) >> 2,
        }
    }

    /// How many packets it is on the wire.
    pub fn segments(&self) -> usize {
        self.layout.segments
    }

    /// Size of one of them, IP header included.
    pub fn segment_ip_bytes(&self, segment: usize) -> usize {
        if self.layout.segments == 1 {
            return self.bytes.len().saturating_sub(VNET_HEADER_BYTES);
        }
        self.layout.payload + self.payload_range(&(segment..segment + 1)).len()
    }

    /// Builds the packet that holds only the segments in `range`, with its virtio_net_hdr.
    pub fn cut(&self, range: Range<usize>) -> Vec<u8> {
        if range == (0..self.layout.segments) {
            return self.bytes.to_vec();
        }
        let headers_end = VNET_HEADER_BYTES + self.layout.payload;
        let payload = self.payload_range(&range);
        let mut packet = Vec::with_capacity(headers_end + payload.len());
        packet.extend_from_slice(&self.bytes[..headers_end]);
        packet.extend_from_slice(&self.bytes[headers_end..][payload]);
        let (vnet, ip) = packet.split_at_mut(VNET_HEADER_BYTES);
        self.fix_vnet(vnet, &range);
        self.fix_ip(ip, &range);
        self.fix_transport(ip, &range);
        packet
    }

    /// The bytes of these segments, counted from the payload's start.
    fn payload_range(&self, range: &Range<usize>) -> Range<usize> {
        let all = self.bytes.len() - VNET_HEADER_BYTES - self.layout.payload;
        let size = self.layout.segment_bytes;
        range.start * size..(range.end * size).min(all)
    }

    fn fix_vnet(&self, vnet: &mut [u8], range: &Range<usize>) {
        if range.len() == 1 {
            vnet[1] = GSO_NONE;
            vnet[4..6].fill(0);
        } else if range.start > 0 {
            vnet[1] &= !GSO_ECN;
        }
        vnet[2..4].copy_from_slice(&(self.layout.payload as u16).to_ne_bytes());
    }

    fn fix_ip(&self, ip: &mut [u8], range: &Range<usize>) {
        if self.layout.ipv6 {
            let length = (ip.len() - IPV6_HEADER_BYTES) as u16;
            ip[4..6].copy_from_slice(&length.to_be_bytes());
            return;
        }
        let length = ip.len() as u16;
        ip[2..4].copy_from_slice(&length.to_be_bytes());
        let id = u16_at(ip, 4).wrapping_add(range.start as u16);
        ip[4..6].copy_from_slice(&id.to_be_bytes());
        ip[10..12].fill(0);
        let checksum = !fold(sum_words(&ip[..self.layout.transport]));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    fn fix_transport(&self, ip: &mut [u8], range: &Range<usize>) {
        let length = ip.len() - self.layout.transport;
        let pseudo = fold(pseudo_header_sum(ip, self.layout.ipv6, length));
        let header = &mut ip[self.layout.transport..];
        if !self.layout.tcp {
            header[4..6].copy_from_slice(&(length as u16).to_be_bytes());
            header[6..8].copy_from_slice(&pseudo.to_be_bytes());
            return;
        }
        let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let moved = sequence.wrapping_add((range.start * self.layout.segment_bytes) as u32);
        header[4..8].copy_from_slice(&moved.to_be_bytes());
        if range.end < self.layout.segments {
            header[13] &= !(TCP_FIN | TCP_PSH);
        }
        if range.start > 0 {
            header[13] &= !TCP_CWR;
        }
        header[16..18].copy_from_slice(&pseudo.to_be_bytes());
    }
}

impl Layout {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (vnet, ip) = bytes.split_at_checked(VNET_HEADER_BYTES)?;
        let (tcp, ipv6) = match vnet[1] & !GSO_ECN {
            GSO_TCPV4 => (true, false),
            GSO_TCPV6 => (true, true),
            GSO_UDP_L4 => (false, ip.first()? >> 4 == 6),
            _ => return None,
        };
        let segment_bytes = usize::from(u16::from_ne_bytes([vnet[4], vnet[5]]));
        let transport = usize::from(u16::from_ne_bytes([vnet[6], vnet[7]]));
        let shortest_ip = if ipv6 { IPV6_HEADER_BYTES } else { IPV4_HEADER_BYTES };
        let shortest_transport = if tcp { TCP_HEADER_BYTES } else { UDP_HEADER_BYTES };
        if transport < shortest_ip || transport + shortest_transport > ip.len() {
            return None;
        }
        let header_bytes = match tcp {
            true => usize::from(ip[transport + 12] >> 4) * 4,
            false => UDP_HEADER_BYTES,
        };
        let payload = transport + header_bytes;
        if segment_bytes == 0 || header_bytes < shortest_transport || payload >= ip.len() {
            return None;
        }
        let segments = (ip.len() - payload).div_ceil(segment_bytes);
        Some(Self { transport, payload, segment_bytes, segments, tcp, ipv6 })
    }
}

/// Sum over addresses, protocol and length, as a receiver of a partial checksum expects it.
pub(crate) fn pseudo_header_sum(ip: &[u8], ipv6: bool, length: usize) -> u32 {
    let (addresses, protocol) = if ipv6 { (&ip[8..40], ip[6]) } else { (&ip[12..20], ip[9]) };
    sum_words(addresses) + u32::from(protocol) + length as u32
}

pub(crate) fn sum_words(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b)))
        .sum()
}

pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    sum as u16
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const TCP_HEADER_BYTES: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 TCP super-packet: `payload` bytes in segments of 1000, all flags under test set.
    fn tcp4(payload: usize) -> Vec<u8> {
        let mut packet = vec![1, GSO_TCPV4 | GSO_ECN];
        for field in [54u16, 1000, 20, 16] {
            packet.extend_from_slice(&field.to_ne_bytes());
        }
        let mut ip = vec![0x45, 0, 0, 0, 0xff, 0xff, 0, 0, 64, 6, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2];
        ip[2..4].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
        packet.extend_from_slice(&ip);
        let flags = TCP_FIN | TCP_PSH | TCP_CWR | 0x10;
        packet.extend_from_slice(&[0, 1, 0, 2, 0xff, 0xff, 0xff, 0xf0, 0, 0, 0, 0, 0x50, flags]);
        packet.extend_from_slice(&[1, 0, 0xaa, 0xaa, 0, 0]);
        packet.extend((0..payload).map(|at| (at / 1000) as u8));
        packet
    }

    #[test]
    fn counts_and_sizes_segments() {
        let packet = tcp4(2500);
        let view = SuperPacket::parse(&packet);
        assert_eq!(view.segments(), 3);
        let sizes: Vec<_> = (0..3).map(|at| view.segment_ip_bytes(at)).collect();
        assert_eq!(sizes, [1040, 1040, 540]);
        assert_eq!(view.cut(0..3), packet);
    }

    #[test]
    fn the_mark_is_read_from_either_header() {
        let mut packet = tcp4(10);
        assert_eq!(SuperPacket::parse(&packet).dscp(), 0);
        packet[VNET_HEADER_BYTES + 1] = 10 << 2 | 3;
        assert_eq!(SuperPacket::parse(&packet).dscp(), 10);
        packet[VNET_HEADER_BYTES] = 0x60 | 46 >> 2;
        packet[VNET_HEADER_BYTES + 1] = (46 << 6) as u8;
        assert_eq!(SuperPacket::parse(&packet).dscp(), 46);
        assert_eq!(SuperPacket::parse(&[]).dscp(), 0);
    }

    #[test]
    fn a_segment_is_a_packet_of_its_own() {
        let packet = tcp4(2500);
        let cut = SuperPacket::parse(&packet).cut(1..2);
        let (vnet, ip) = cut.split_at(VNET_HEADER_BYTES);
        assert_eq!((vnet[1], &vnet[4..6]), (GSO_NONE, &[0, 0][..]));
        assert_eq!(ip.len(), 1040);
        assert_eq!(u16_at(ip, 2), 1040);
        assert_eq!(u16_at(ip, 4), 0, "the identification wraps");
        assert_eq!(fold(sum_words(&ip[..20])), 0xffff, "the IPv4 header's checksum holds");
        assert_eq!(&ip[24..28], &[0, 0, 3, 0xd8], "the sequence number wraps");
        assert_eq!(ip[33], 0x10, "neither FIN, PSH nor CWR in the middle");
        assert!(ip[40..].iter().all(|byte| *byte == 1));
        let pseudo = fold(pseudo_header_sum(ip, false, 1020));
        assert_eq!(u16_at(ip, 36), pseudo);
    }

    #[test]
    fn a_run_of_segments_stays_a_super_packet() {
        let packet = tcp4(2500);
        let view = SuperPacket::parse(&packet);
        let head = view.cut(0..2);
        assert_eq!(head[1], GSO_TCPV4 | GSO_ECN);
        assert_eq!(head[VNET_HEADER_BYTES + 33], TCP_CWR | 0x10);
        let tail = view.cut(1..3);
        assert_eq!(tail[1], GSO_TCPV4);
        assert_eq!(tail[VNET_HEADER_BYTES + 33], TCP_FIN | TCP_PSH | 0x10);
        assert_eq!(SuperPacket::parse(&tail).segments(), 2);
        assert_eq!(tail.len(), VNET_HEADER_BYTES + 40 + 1500);
    }

    #[test]
    fn udp_over_ipv6_is_cut_too() {
        let mut packet = vec![1, GSO_UDP_L4];
        for field in [48u16, 100, 40, 6] {
            packet.extend_from_slice(&field.to_ne_bytes());
        }
        let mut ip = vec![0x60, 0, 0, 0, 0, 208, 17, 64];
        ip.extend_from_slice(&[0xfd; 32]);
        ip.extend_from_slice(&[0, 1, 0, 2, 0, 208, 0, 0]);
        ip.extend_from_slice(&[7; 200]);
        packet.extend_from_slice(&ip);
        let view = SuperPacket::parse(&packet);
        assert_eq!((view.segments(), view.segment_ip_bytes(1)), (2, 148));
        let cut = view.cut(1..2);
        let ip = &cut[VNET_HEADER_BYTES..];
        assert_eq!((u16_at(ip, 4), u16_at(ip, 44)), (108, 108));
        assert_eq!(u16_at(ip, 46), fold(pseudo_header_sum(ip, true, 108)));
    }

    #[test]
    fn anything_else_is_one_segment() {
        let mut plain = tcp4(500);
        plain[1] = GSO_NONE;
        let mut lying = tcp4(500);
        lying[6..8].copy_from_slice(&60_000u16.to_ne_bytes());
        for packet in [plain, lying, vec![], vec![0; 3], tcp4(0)] {
            let view = SuperPacket::parse(&packet);
            assert_eq!(view.segments(), 1);
            assert_eq!(view.cut(0..1), packet);
        }
    }
}
