//! The sockets to one peer, read into samples of the path to it.
//!
//! All streams are read at one time, a few times a second; what they carried in between is news.

use super::sys::socket::{self, TcpInfo};
use crate::base::StreamId;
use crate::transport::mode::{PathMeter, PathSample, StreamReading};
use std::os::fd::AsFd;

/// Reads the streams to one peer.
#[derive(Clone, Debug, Default)]
pub struct PathReader {
    meter: PathMeter,
}

impl PathReader {
    /// What the open streams tell since they were last read. One that cannot be read, because it has
    /// just been closed, tells nothing.
    pub fn sample<'a, S: AsFd + 'a>(
        &mut self,
        streams: impl IntoIterator<Item = (StreamId, &'a S)>,
    ) -> PathSample {
        let read = |(id, socket): (StreamId, &'a S)| {
            let info = socket::tcp_info(socket).ok()?;
            Some((id, stream_reading(&info)))
        };
        let readings: Vec<_> = streams.into_iter().filter_map(read).collect();
        self.meter.sample(&readings)
    }
}

/// What a kernel that is too old for a field leaves out is made up for by the fields that it has, or
/// is left at nothing.
fn stream_reading(info: &TcpInfo) -> StreamReading {
    let resent_segments = u64::from(info.total_retransmits);
    let by_segments = resent_segments * u64::from(info.segment_bytes);
    let retransmitted_bytes = info.retransmitted_bytes.unwrap_or(by_segments);
    let acked_bytes = info.acked_bytes.unwrap_or(0);
    StreamReading {
        rtt_us: info.rtt_us,
        rtt_variation_us: info.rtt_variation_us,
        segment_bytes: info.segment_bytes,
        acked_bytes,
        sent_bytes: info.sent_bytes.unwrap_or(acked_bytes + retransmitted_bytes),
        retransmitted_bytes,
        delivery_rate_bytes_per_s: info.delivery_rate_bytes_per_s.unwrap_or(0),
        application_limited: info.application_limited,
        busy_us: info.busy_us.unwrap_or(0),
        held_back_us: info.window_limited_us.unwrap_or(0) + info.buffer_limited_us.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    const BYTES: usize = 8 << 20;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// Sends bytes and waits until the peer has answered, so that all of them are acknowledged.
    fn carry(near: &mut TcpStream, far: &mut TcpStream, bytes: usize, pause: Duration) {
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut left = bytes;
                let mut buffer = vec![0; 64 << 10];
                while left > 0 {
                    left -= far.read(&mut buffer).unwrap();
                    std::thread::sleep(pause);
                }
                far.write_all(&[1]).unwrap();
            });
            near.write_all(&vec![7; bytes]).unwrap();
            near.read_exact(&mut [0]).unwrap();
        });
    }

    #[test]
    fn streams_that_carry_data_tell_of_their_path() {
        let mut pairs = [pair(), pair()];
        let mut reader = PathReader::default();
        let mut look = |pairs: &[(TcpStream, TcpStream); 2]| {
            let ids = [StreamId(1), StreamId(2)];
            reader.sample(ids.into_iter().zip(pairs.iter().map(|(near, _)| near)))
        };
        assert_eq!(look(&pairs), PathSample::default());
        for (near, far) in &mut pairs {
            carry(near, far, BYTES, Duration::ZERO);
        }
        let sample = look(&pairs);
        assert!(sample.rtt_us.is_some_and(|rtt_us| rtt_us > 0), "{sample:?}");
        assert!(sample.jitter_us.is_some(), "{sample:?}");
        assert!(sample.rate_bytes_per_s.is_some_and(|rate| rate > 0), "{sample:?}");
        let fresh = |sample: &PathSample| sample.sent_bytes - sample.retransmitted_bytes;
        assert_eq!(fresh(&sample), 2 * BYTES as u64);
        let quiet = look(&pairs);
        assert_eq!((quiet.rtt_us, quiet.rate_bytes_per_s, fresh(&quiet)), (None, None, 0));
        carry(&mut pairs[0].0, &mut pairs[0].1, BYTES, Duration::ZERO);
        assert_eq!(fresh(&look(&pairs)), BYTES as u64, "the other was idle");
    }

    #[test]
    fn a_peer_that_reads_slowly_shows_no_slow_path() {
        let (mut near, mut far) = pair();
        let mut reader = PathReader::default();
        reader.sample([(StreamId(1), &near)]);
        carry(&mut near, &mut far, BYTES, Duration::from_millis(2));
        let sample = reader.sample([(StreamId(1), &near)]);
        assert!(sample.rate_is_floor, "{sample:?}; {:?}", socket::tcp_info(&near));
    }

    #[test]
    fn an_older_kernels_figures_are_made_up_for() {
        let info = TcpInfo {
            segment_bytes: 1_000,
            total_retransmits: 3,
            acked_bytes: Some(50_000),
            ..TcpInfo::default()
        };
        let reading = stream_reading(&info);
        assert_eq!((reading.sent_bytes, reading.retransmitted_bytes), (53_000, 3_000));
        assert_eq!(stream_reading(&TcpInfo::default()), StreamReading::default());
    }

    #[test]
    fn what_is_no_tcp_socket_tells_nothing() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let sample = PathReader::default().sample([(StreamId(1), &file)]);
        assert_eq!(sample, PathSample::default());
    }
}
