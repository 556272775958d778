//! The suite for page sinks: what goes in comes out, and ranges outside are refused.

use super::{PAGE, Random};
use dwcp::migration::GuestSink;
use std::io::{self, Read};

/// Runs the whole suite on an empty sink.
pub fn suite(sink: &dyn GuestSink) {
    starts_as_zeros(sink);
    written_pages_come_back(sink);
    received_pages_come_back(sink);
    zeroed_pages_are_zero(sink);
    bad_ranges_are_refused(sink);
    streams_that_fail_are_errors(sink);
}

fn starts_as_zeros(sink: &dyn GuestSink) {
    for (region, length) in lengths(sink) {
        assert!(read(sink, region, 0, length).iter().all(|byte| *byte == 0));
    }
}

fn written_pages_come_back(sink: &dyn GuestSink) {
    for (region, length) in lengths(sink) {
        let data = noise(region as u64 + 1, length);
        sink.write_pages(region, 0, &data).unwrap();
        assert!(read(sink, region, 0, length) == data);
        sink.write_pages(region, length - PAGE, &data[..PAGE as usize]).unwrap();
        assert!(read(sink, region, length - PAGE, PAGE) == data[..PAGE as usize]);
    }
}

fn received_pages_come_back(sink: &dyn GuestSink) {
    for (region, length) in lengths(sink) {
        let data = noise(region as u64 + 100, length);
        let mut shown = Vec::new();
        let mut stream = Dribble(&data, Random(3));
        let inspect = &mut |piece: &[u8]| shown.extend_from_slice(piece);
        sink.receive_pages(region, 0, length, &mut stream, inspect).unwrap();
        assert!(shown == data, "region {region}: what was shown is not what came");
        assert!(read(sink, region, 0, length) == data);
    }
}

fn zeroed_pages_are_zero(sink: &dyn GuestSink) {
    for (region, length) in lengths(sink) {
        sink.write_pages(region, 0, &noise(9, length)).unwrap();
        sink.zero_pages(region, PAGE, length - 2 * PAGE).unwrap();
        let bytes = read(sink, region, 0, length);
        let (first, last) = (PAGE as usize, (length - PAGE) as usize);
        assert!(bytes[first..last].iter().all(|byte| *byte == 0));
        assert!(bytes[..first] == noise(9, length)[..first]);
        assert!(bytes[last..] == noise(9, length)[last..]);
        sink.zero_pages(region, 0, length).unwrap();
        assert!(read(sink, region, 0, length).iter().all(|byte| *byte == 0));
    }
}

fn bad_ranges_are_refused(sink: &dyn GuestSink) {
    let page = [7; PAGE as usize];
    let count = lengths(sink).len();
    let mut bad: Vec<(usize, u64)> = vec![(count, 0), (usize::MAX, 0)];
    for (region, length) in lengths(sink) {
        bad.extend([length, length - PAGE + 1, u64::MAX, u64::MAX - PAGE + 1].map(|o| (region, o)));
    }
    for (region, offset) in bad {
        let text = format!("region {region} at {offset}");
        assert!(sink.write_pages(region, offset, &page).is_err(), "{text}");
        assert!(sink.read_pages(region, offset, &mut page.clone()).is_err(), "{text}");
        assert!(sink.zero_pages(region, offset, PAGE).is_err(), "{text}");
        let mut stream = &page[..];
        let received = sink.receive_pages(region, offset, PAGE, &mut stream, &mut |_| ());
        assert_eq!(received.unwrap_err().kind(), io::ErrorKind::Other, "{text}");
    }
    for (region, length) in lengths(sink) {
        assert!(sink.zero_pages(region, 0, u64::MAX).is_err());
        assert!(read(sink, region, 0, length).iter().all(|byte| *byte == 0), "it was written to");
    }
}

fn streams_that_fail_are_errors(sink: &dyn GuestSink) {
    let mut short = &[7; 100][..];
    let error = sink.receive_pages(0, 0, PAGE, &mut short, &mut |_| ()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    sink.zero_pages(0, 0, PAGE).unwrap();
}

fn lengths(sink: &dyn GuestSink) -> Vec<(usize, u64)> {
    sink.layout().regions().iter().map(|region| region.length_bytes).enumerate().collect()
}

fn read(sink: &dyn GuestSink, region: usize, offset: u64, length: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; length as usize];
    sink.read_pages(region, offset, &mut bytes).unwrap();
    bytes
}

fn noise(seed: u64, length: u64) -> Vec<u8> {
    let mut random = Random(seed);
    (0..length).map(|_| random.below(256) as u8).collect()
}

/// A stream that gives odd amounts, as sockets do.
struct Dribble<'a>(&'a [u8], Random);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let length = (1 + self.1.below(9000) as usize).min(into.len()).min(self.0.len());
        into[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}
