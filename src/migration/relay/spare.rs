//! Buffers of segments that have done their work and serve again: memory that is new costs the kernel
//! a fault and a cleared page for every four kilobytes, which is more than copying them does.

/// Buffers that are kept.
const MOST_BUFFERS: usize = 6;
/// Smaller ones are not worth it, larger ones would not be needed.
const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 256 << 10..=2 << 20;

/// A few buffers.
#[derive(Debug, Default)]
pub struct SpareBuffers(Vec<Vec<u8>>);

impl SpareBuffers {
    /// Keeps a buffer, with what is in it, or lets it go.
    pub fn put(&mut self, buffer: Vec<u8>) {
        if self.0.len() < MOST_BUFFERS && BUFFER_BYTES.contains(&buffer.capacity()) {
            self.0.push(buffer);
        }
    }

    /// A buffer with whatever was in it; an empty one if none is kept.
    pub fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_so_many_and_only_of_useful_sizes_are_kept() {
        let mut spare = SpareBuffers::default();
        spare.put(Vec::with_capacity(100));
        spare.put(Vec::with_capacity(3 << 20));
        assert_eq!(spare.take().capacity(), 0);
        (0..9).for_each(|_| spare.put(Vec::with_capacity(1 << 20)));
        let kept = std::iter::repeat_with(|| spare.take()).take(9);
        assert_eq!(kept.filter(|buffer| buffer.capacity() > 0).count(), MOST_BUFFERS);
    }
}
