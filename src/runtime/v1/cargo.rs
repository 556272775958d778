//! What is sent to a v1 peer, part by part: headers as the dialect has them, and memory.

use crate::base::MemoryLayout;
use crate::encoding::ImageDigest;
use crate::migration::{Dialect, GuestError, GuestSource, V1Options};
use crate::runtime::v1::{V1Error, image};
use crate::wire::v1::{f8, f16, hde, payload};
use std::ops::Range;
use std::sync::Arc;

/// v1 writes plain memory in pieces of this length.
pub const PLAIN_PIECE_BYTES: u64 = 64 << 10;

/// A guest that stands still, and how it is to travel.
pub struct Cargo {
    guest: Arc<dyn GuestSource>,
    layout: MemoryLayout,
    digest: Arc<ImageDigest>,
    form: Form,
}

enum Form {
    F16(Vec<u8>),
    F8(f8::Transfer),
    Plain,
}

/// Whether a guest of this shape can come or go by what both ends were told.
///
/// # Errors
/// [`V1Error`] says what is in the way.
pub fn check_size(layout: &MemoryLayout, options: &V1Options) -> Result<(), V1Error> {
    let image_bytes = layout.total_bytes();
    if image_bytes > options.max_image_bytes {
        let (limit, by) = (options.max_image_bytes, "v1.max_image");
        return Err(V1Error::TooLarge { image_bytes, limit, by });
    }
    if options.dialect == Dialect::F8 {
        let (chunk_bytes, page_bytes) = (options.f8_chunk_bytes, layout.page_bytes());
        if !chunk_bytes.is_multiple_of(page_bytes) {
            return Err(V1Error::ChunkSize { chunk_bytes, page_bytes });
        }
        f8::Transfer::new(image_bytes, chunk_bytes)?;
    }
    Ok(())
}

/// Whether a guest of this shape can go to a v1 peer: what that can unpack counts too.
///
/// # Errors
/// As [`check_size`].
pub fn check_departure(layout: &MemoryLayout, options: &V1Options) -> Result<(), V1Error> {
    check_size(layout, options)?;
    let (image_bytes, limit) = (layout.total_bytes(), hde::MAX_V1_IMAGE_BYTES);
    if options.dialect == Dialect::F16 && image_bytes > limit {
        let by = "what v1 unpacks; dialects f8 and plain have no such limit";
        return Err(V1Error::TooLarge { image_bytes, limit, by });
    }
    Ok(())
}

impl Cargo {
    /// Takes a guest that has been paused. A packet is packed here, the rest is read as it goes out.
    ///
    /// # Errors
    /// The guest's memory cannot be read, or not packed.
    pub fn load(
        guest: Arc<dyn GuestSource>,
        layout: MemoryLayout,
        digest: Arc<ImageDigest>,
        options: &V1Options,
    ) -> Result<Self, V1Error> {
        check_departure(&layout, options)?;
        let form = match options.dialect {
            Dialect::F16 => {
                let mut memory = vec![0; layout.total_bytes() as usize];
                image::read(guest.as_ref(), &layout, &digest, 0, &mut memory)?;
                // v1 never measures how far a peer is, so all that it sends is for the nearest.
                Form::F16(hde::pack_image(&memory, hde::Tier::Local)?)
            }
            Dialect::F8 => {
                let (image_bytes, chunk_bytes) = (layout.total_bytes(), options.f8_chunk_bytes);
                Form::F8(f8::Transfer::new(image_bytes, chunk_bytes)?)
            }
            Dialect::Plain => Form::Plain,
        };
        Ok(Self { guest, layout, digest, form })
    }

    /// How many parts there are; all are sent once.
    pub fn part_count(&self) -> u64 {
        match &self.form {
            Form::F16(packet) => packet.len().div_ceil(f16::DEFAULT_CHUNK_BYTES as usize) as u64,
            Form::F8(transfer) => transfer.chunk_count(),
            Form::Plain => self.layout.total_bytes().div_ceil(PLAIN_PIECE_BYTES),
        }
    }

    /// What all parts together have on the wire.
    pub fn wire_bytes(&self) -> u64 {
        let (parts, image_bytes) = (self.part_count(), self.layout.total_bytes());
        match &self.form {
            Form::F16(packet) => packet.len() as u64 + parts * f16::HEADER_BYTES as u64,
            Form::F8(_) => image_bytes + parts * f8::HEADER_BYTES as u64,
            Form::Plain => image_bytes + payload::LENGTH_BYTES as u64,
        }
    }

    /// How many connections it can use of those that are wanted.
    pub fn streams(dialect: Dialect, wanted: u16) -> u16 {
        if dialect == Dialect::Plain { 1 } else { wanted }
    }

    /// On which of so many connections a part goes; none: on any.
    pub fn stream_of(&self, part: u64, streams: u64) -> Option<u64> {
        match self.form {
            Form::F16(_) => None,
            Form::F8(_) | Form::Plain => Some(part % streams.max(1)),
        }
    }

    /// The bytes of a part.
    ///
    /// # Errors
    /// The guest's memory cannot be read.
    pub fn fill(&self, part: u64, out: &mut Vec<u8>) -> Result<(), GuestError> {
        out.clear();
        match &self.form {
            Form::F16(packet) => {
                let chunk = f16::chunk(packet, f16::DEFAULT_CHUNK_BYTES, part as u32);
                if let Some((header, payload)) = chunk {
                    out.extend_from_slice(&header.encode());
                    out.extend_from_slice(payload);
                }
                Ok(())
            }
            Form::F8(transfer) => {
                let range = transfer
                    .range(part as u32)
                    .map_err(|error| GuestError::new("read_pages", error))?;
                let payload_bytes = (range.end - range.start) as u32;
                let header = f8::ChunkHeader { id: part as u32, payload_bytes };
                out.extend_from_slice(&header.encode());
                self.append(range, out)
            }
            Form::Plain => {
                if part == 0 {
                    out.extend_from_slice(&self.layout.total_bytes().to_be_bytes());
                }
                let start = part * PLAIN_PIECE_BYTES;
                self.append(start..self.layout.total_bytes().min(start + PLAIN_PIECE_BYTES), out)
            }
        }
    }

    fn append(&self, range: Range<u64>, out: &mut Vec<u8>) -> Result<(), GuestError> {
        let head = out.len();
        out.resize(head + (range.end - range.start) as usize, 0);
        let (guest, layout) = (self.guest.as_ref(), &self.layout);
        image::read(guest, layout, &self.digest, range.start, &mut out[head..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::RegionLayout;

    fn layout(length_bytes: u64, page_bytes: u32) -> MemoryLayout {
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes };
        MemoryLayout::new(page_bytes, vec![region]).unwrap()
    }

    #[test]
    fn what_v1_cannot_unpack_goes_by_other_dialects_only() {
        let large = layout((256 << 20) + 4096, 4096);
        let options =
            |dialect| V1Options { dialect, max_image_bytes: 1 << 40, ..V1Options::default() };
        let error = check_departure(&large, &options(Dialect::F16)).unwrap_err().to_string();
        assert!(error.contains("268439552 bytes, the limit is 268435456 (by what v1"), "{error}");
        // To be taken in it need only fit what is configured.
        assert!(check_size(&large, &options(Dialect::F16)).is_ok());
        for dialect in [Dialect::F8, Dialect::Plain] {
            assert!(check_departure(&large, &options(dialect)).is_ok());
        }
        assert!(check_departure(&layout(256 << 20, 4096), &options(Dialect::F16)).is_ok());
    }

    #[test]
    fn chunks_never_cut_a_page() {
        let options =
            V1Options { dialect: Dialect::F8, f8_chunk_bytes: 4096, ..V1Options::default() };
        assert!(check_size(&layout(1 << 20, 4096), &options).is_ok());
        let error = check_size(&layout(1 << 20, 65_536), &options).unwrap_err().to_string();
        assert!(error.contains("4096, no multiple of the guest's pages of 65536"), "{error}");
        assert!(PLAIN_PIECE_BYTES.is_multiple_of(crate::base::limits::MAX_PAGE_BYTES.into()));
    }
}
