//! The first frame of a connection and its answer: who, which migration, which features.
//!
//! Features are a list of (id u16, flags u16, length u32, value). An unknown feature is ignored,
//! unless its critical flag is set: then the hello is refused with its number.

use crate::base::limits::{MAX_NAME_BYTES, MAX_REASON_BYTES, MAX_REGIONS};
use crate::base::{MachineFacts, MemoryLayout, MigrationId, RegionLayout, StreamId};
use crate::wire::cursor::{Reader, WireError, put_text};

const CRITICAL: u16 = 1;
const FEATURE_CODECS: u16 = 1;
const FEATURE_CHUNK_BYTES: u16 = 2;
const FEATURE_BASELINE_PAGES: u16 = 3;
const FEATURE_HELD_PAGES: u16 = 4;
const FEATURE_MULTIFD_CHANNELS: u16 = 5;
const FEATURE_POST_COPY: u16 = 6;
const FEATURE_RDMA: u16 = 7;
const FEATURE_RECOVERS: u16 = 8;
const FEATURE_FLAGS: u16 = 9;
const MAX_FEATURES: usize = 64;
const MAX_FEATURE_BYTES: usize = 1024;

/// What the two sides can do; each takes the lesser of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Bit `n` set: codec number `n` can be decoded.
    pub codecs: u32,
    /// Most raw bytes that one chunk may hold.
    pub chunk_bytes: u32,
    /// Pages that both sides of a relayed migration remember, for references and differences.
    pub baseline_pages: u32,
    /// The destination of a relayed migration announces which pages it holds, and the source waits
    /// for that before it begins.
    pub held_pages: bool,
    /// Multifd channels of QEMU's that a relayed migration carries. A source that has some makes
    /// this feature critical; one that has none does not name it.
    pub multifd_channels: u8,
    /// The guest may run at the destination while pages of it are missing. A source that may want
    /// that makes this feature critical, and is refused by a destination that cannot; one that
    /// never will does not name it.
    pub post_copy: bool,
    /// Pages may go from memory to memory by RDMA: the source offers a queue pair on this connection.
    pub rdma: bool,
    /// A relayed migration goes on with what an earlier one, of this id, had left in post-copy: the
    /// hypervisors have what they have, and tell each other. The id is zero where the source does not
    /// know it. Critical: a destination that cannot must not take it for a migration from the beginning.
    pub recovers: Option<MigrationId>,
    /// Feature flags, a bit each by their order: what the source would have on for this peer, and what of
    /// that the destination takes part in. One that does not speak of flags takes part in all.
    pub flags: u32,
}

/// What the connection is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// First connection of a migration.
    Open {
        /// The guest, by name.
        guest: String,
        /// Its memory.
        layout: MemoryLayout,
    },
    /// First connection of a migration that another program performs and this one carries.
    Relay {
        /// The guest, by name.
        guest: String,
        /// Its machine.
        facts: MachineFacts,
    },
    /// A further or renewed connection of an open migration.
    Join {
        /// What the reply to the first one gave.
        token: [u8; 16],
    },
}

/// The source's first frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The migration.
    pub migration: MigrationId,
    /// The number that this connection gets.
    pub stream: StreamId,
    /// The sender's name.
    pub node: String,
    /// What it can do.
    pub features: Features,
    /// What the connection is for.
    pub purpose: Purpose,
}

/// Who has the guest of a migration that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Ended {
    /// It has not ended, or was never heard of.
    No = 0,
    /// The source: the destination does not and will not run the guest.
    SourceOwns = 1,
    /// The destination has committed.
    DestinationOwns = 2,
}

/// The destination's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HelloReply {
    /// The connection is part of the migration now.
    Accept {
        /// To be shown by further connections.
        token: [u8; 16],
        /// What both can do.
        features: Features,
        /// The destination's name.
        node: String,
    },
    /// The connection is of no use.
    Refuse {
        /// Status code.
        status: i32,
        /// Why, for people.
        reason: String,
        /// Set when the migration is known to be over.
        ended: Ended,
    },
}

impl Features {
    /// What both can do.
    pub fn common(self, other: Self) -> Self {
        Self {
            codecs: self.codecs & other.codecs,
            chunk_bytes: self.chunk_bytes.min(other.chunk_bytes),
            baseline_pages: self.baseline_pages.min(other.baseline_pages),
            held_pages: self.held_pages && other.held_pages,
            multifd_channels: self.multifd_channels.min(other.multifd_channels),
            post_copy: self.post_copy && other.post_copy,
            rdma: self.rdma && other.rdma,
            recovers: self.recovers.and(other.recovers),
            flags: self.flags & other.flags,
        }
    }

    fn encode(self, out: &mut Vec<u8>) {
        let channels = u32::from(self.multifd_channels);
        let values = [
            (FEATURE_CODECS, 0, self.codecs),
            (FEATURE_CHUNK_BYTES, 0, self.chunk_bytes),
            (FEATURE_BASELINE_PAGES, 0, self.baseline_pages),
            (FEATURE_HELD_PAGES, 0, self.held_pages.into()),
            (FEATURE_MULTIFD_CHANNELS, CRITICAL, channels),
            (FEATURE_POST_COPY, CRITICAL, self.post_copy.into()),
            (FEATURE_RDMA, 0, self.rdma.into()),
            (FEATURE_FLAGS, 0, self.flags),
        ];
        // A critical feature that is not used is not named, nor is one that came later.
        let is_named = |(id, flags, value): &&(u16, u16, u32)| {
            *flags != CRITICAL && *id != FEATURE_RDMA || *value != 0
        };
        let named = values.iter().filter(is_named);
        let count = named.clone().count() + usize::from(self.recovers.is_some());
        out.extend_from_slice(&(count as u32).to_le_bytes());
        for (id, flags, value) in named {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&flags.to_le_bytes());
            out.extend_from_slice(&4_u32.to_le_bytes());
            out.extend_from_slice(&value.to_le_bytes());
        }
        if let Some(earlier) = self.recovers {
            out.extend_from_slice(&FEATURE_RECOVERS.to_le_bytes());
            out.extend_from_slice(&CRITICAL.to_le_bytes());
            out.extend_from_slice(&(earlier.0.len() as u32).to_le_bytes());
            out.extend_from_slice(&earlier.0);
        }
    }

    fn decode(reader: &mut Reader) -> Result<Self, WireError> {
        let mut features = Self {
            codecs: 1,
            chunk_bytes: 64 * 1024,
            baseline_pages: 0,
            held_pages: false,
            multifd_channels: 0,
            post_copy: false,
            rdma: false,
            recovers: None,
            flags: u32::MAX,
        };
        for _ in 0..reader.count("features", MAX_FEATURES)? {
            let (id, flags) = (reader.u16("feature id")?, reader.u16("feature flags")?);
            let length = reader.count("feature", MAX_FEATURE_BYTES)?;
            let mut value = Reader::new(reader.bytes("feature", length)?);
            match id {
                FEATURE_CODECS => features.codecs = value.u32("codecs")? | 1,
                FEATURE_CHUNK_BYTES => features.chunk_bytes = value.u32("chunk size")?,
                FEATURE_BASELINE_PAGES => features.baseline_pages = value.u32("baselines")?,
                FEATURE_HELD_PAGES => features.held_pages = value.u32("held pages")? != 0,
                FEATURE_MULTIFD_CHANNELS => {
                    let channels = value.u32("multifd channels")?;
                    features.multifd_channels = u8::try_from(channels).unwrap_or(u8::MAX);
                }
                FEATURE_FLAGS => features.flags = value.u32("feature flags")?,
                FEATURE_RDMA => features.rdma = value.u32("rdma")? != 0,
                FEATURE_POST_COPY => features.post_copy = value.u32("post-copy")? != 0,
                FEATURE_RECOVERS => {
                    features.recovers = Some(MigrationId(value.array("earlier migration")?));
                }
                _ if flags & CRITICAL != 0 => return Err(WireError::UnknownFeature(id)),
                _ => {}
            }
        }
        let allowed = crate::base::limits::MAX_PAGE_BYTES..=crate::base::limits::MAX_CHUNK_BYTES;
        if !allowed.contains(&features.chunk_bytes) {
            let value = features.chunk_bytes.into();
            return Err(WireError::Range { what: "chunk size", value, allowed: "64 KiB to 1 MiB" });
        }
        Ok(features)
    }
}

impl Hello {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.extend_from_slice(&self.migration.0);
        out.extend_from_slice(&self.stream.0.to_le_bytes());
        put_text(&mut out, &self.node, MAX_NAME_BYTES);
        self.features.encode(&mut out);
        match &self.purpose {
            Purpose::Open { guest, layout } => {
                out.push(0);
                put_text(&mut out, guest, MAX_NAME_BYTES);
                encode_layout(&mut out, layout);
            }
            Purpose::Join { token } => {
                out.push(1);
                out.extend_from_slice(token);
            }
            Purpose::Relay { guest, facts } => {
                out.push(2);
                put_text(&mut out, guest, MAX_NAME_BYTES);
                put_text(&mut out, &facts.machine, MAX_NAME_BYTES);
                out.extend_from_slice(&facts.ram_bytes.to_le_bytes());
                out.extend_from_slice(&facts.cpus.to_le_bytes());
            }
        }
        out
    }

    /// Reads a hello. Bytes after the known fields are a later minor version's and are ignored.
    ///
    /// # Errors
    /// Anything out of bounds, a layout that is not usable, an unknown critical feature.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let migration = MigrationId(reader.array("migration id")?);
        let stream = StreamId(reader.u32("stream id")?);
        let node = reader.text("node name", MAX_NAME_BYTES)?;
        let features = Features::decode(&mut reader)?;
        let purpose = match reader.u8("purpose")? {
            0 => Purpose::Open {
                guest: reader.text("guest name", MAX_NAME_BYTES)?,
                layout: decode_layout(&mut reader)?,
            },
            1 => Purpose::Join { token: reader.array("token")? },
            2 => Purpose::Relay {
                guest: reader.text("guest name", MAX_NAME_BYTES)?,
                facts: MachineFacts {
                    machine: reader.text("machine type", MAX_NAME_BYTES)?,
                    ram_bytes: reader.u64("memory size")?,
                    cpus: reader.u32("processors")?,
                },
            },
            other => {
                let value = other.into();
                return Err(WireError::Range { what: "purpose", value, allowed: "0 to 2" });
            }
        };
        Ok(Self { migration, stream, node, features, purpose })
    }
}

impl HelloReply {
    /// The payload.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Accept { token, features, node } => {
                out.extend_from_slice(&0_i32.to_le_bytes());
                out.extend_from_slice(token);
                put_text(&mut out, node, MAX_NAME_BYTES);
                features.encode(&mut out);
            }
            Self::Refuse { status, reason, ended } => {
                out.extend_from_slice(&status.to_le_bytes());
                put_text(&mut out, reason, MAX_REASON_BYTES);
                out.push(*ended as u8);
            }
        }
        out
    }

    /// Reads a reply; bytes after the known fields are ignored.
    ///
    /// # Errors
    /// Anything out of bounds.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(bytes);
        let status = i32::from_le_bytes(reader.array("status")?);
        if status == 0 {
            let token = reader.array("token")?;
            let node = reader.text("node name", MAX_NAME_BYTES)?;
            return Ok(Self::Accept { token, features: Features::decode(&mut reader)?, node });
        }
        let reason = reader.text("reason", MAX_REASON_BYTES)?;
        let ended = match reader.u8("ended")? {
            0 => Ended::No,
            1 => Ended::SourceOwns,
            2 => Ended::DestinationOwns,
            other => {
                let value = other.into();
                return Err(WireError::Range { what: "ended", value, allowed: "0 to 2" });
            }
        };
        Ok(Self::Refuse { status, reason, ended })
    }
}

fn encode_layout(out: &mut Vec<u8>, layout: &MemoryLayout) {
    out.extend_from_slice(&layout.page_bytes().to_le_bytes());
    out.extend_from_slice(&(layout.regions().len() as u32).to_le_bytes());
    for region in layout.regions() {
        put_text(out, &region.name, MAX_NAME_BYTES);
        out.extend_from_slice(&region.guest_address.to_le_bytes());
        out.extend_from_slice(&region.length_bytes.to_le_bytes());
    }
}

fn decode_layout(reader: &mut Reader) -> Result<MemoryLayout, WireError> {
    let page_bytes = reader.u32("page size")?;
    let count = reader.count("regions", MAX_REGIONS)?;
    let regions = (0..count)
        .map(|_| {
            Ok(RegionLayout {
                name: reader.text("region name", MAX_NAME_BYTES)?,
                guest_address: reader.u64("region address")?,
                length_bytes: reader.u64("region length")?,
            })
        })
        .collect::<Result<Vec<_>, WireError>>()?;
    Ok(MemoryLayout::new(page_bytes, regions)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: Features = Features {
        codecs: 7,
        chunk_bytes: 1 << 18,
        baseline_pages: 9,
        held_pages: true,
        multifd_channels: 4,
        post_copy: true,
        rdma: true,
        recovers: Some(MigrationId([8; 16])),
        flags: 0b10110,
    };

    fn hello() -> Hello {
        let region = RegionLayout { name: "ram".into(), guest_address: 0, length_bytes: 8192 };
        let layout = MemoryLayout::new(4096, vec![region]).unwrap();
        Hello {
            migration: MigrationId([3; 16]),
            stream: StreamId(2),
            node: "alpha".into(),
            features: FEATURES,
            purpose: Purpose::Open { guest: "vm".into(), layout },
        }
    }

    #[test]
    fn hello_round_trips_and_every_truncation_is_an_error() {
        let facts = MachineFacts { machine: "pc".into(), ram_bytes: 1 << 30, cpus: 2 };
        let purposes = [
            hello().purpose,
            Purpose::Join { token: [9; 16] },
            Purpose::Relay { guest: "vm".into(), facts },
        ];
        for hello in purposes.map(|purpose| Hello { purpose, ..hello() }) {
            let bytes = hello.encode();
            for length in 0..bytes.len() {
                assert!(Hello::decode(&bytes[..length]).is_err(), "{length}");
            }
            assert_eq!(Hello::decode(&bytes), Ok(hello));
        }
    }

    #[test]
    fn replies_round_trip() {
        let accept = HelloReply::Accept { token: [1; 16], features: FEATURES, node: "beta".into() };
        let refuse =
            HelloReply::Refuse { status: -400, reason: "no".into(), ended: Ended::DestinationOwns };
        for reply in [accept, refuse] {
            assert_eq!(HelloReply::decode(&reply.encode()), Ok(reply));
        }
    }

    #[test]
    fn unknown_features_are_ignored_unless_critical() {
        let mut bytes = hello().encode();
        let at = 16 + 4 + 4 + "alpha".len();
        bytes[at + 4..at + 6].copy_from_slice(&999_u16.to_le_bytes());
        assert_eq!(Hello::decode(&bytes).unwrap().features.codecs, 1);
        bytes[at + 6] = 1;
        assert_eq!(Hello::decode(&bytes), Err(WireError::UnknownFeature(999)));
    }

    #[test]
    fn a_source_that_wants_post_copy_needs_a_destination_that_knows_it() {
        let none = Features { post_copy: false, ..FEATURES };
        let (with, without) = (hello().encode(), Hello { features: none, ..hello() }.encode());
        assert_eq!(Hello::decode(&without).unwrap().features, none);
        assert_eq!(with.len(), without.len() + 12, "not wanted, no word of it");
        let id = FEATURE_POST_COPY.to_le_bytes();
        let named = [&id[..], &CRITICAL.to_le_bytes(), &4_u32.to_le_bytes(), &1_u32.to_le_bytes()];
        assert!(with.windows(12).any(|bytes| bytes == named.concat()));
        assert!(!FEATURES.common(none).post_copy && FEATURES.common(FEATURES).post_copy);
    }

    #[test]
    fn a_recovery_is_never_taken_for_a_migration_from_the_beginning() {
        let none = Features { recovers: None, ..FEATURES };
        let (with, without) = (hello().encode(), Hello { features: none, ..hello() }.encode());
        assert_eq!(Hello::decode(&without).unwrap().features, none);
        assert_eq!(with.len(), without.len() + 8 + 16, "no recovery, no word of it");
        // As one that does not know the feature reads it.
        let named = [&FEATURE_RECOVERS.to_le_bytes()[..], &CRITICAL.to_le_bytes()].concat();
        let at = with.windows(4).position(|bytes| bytes == named).unwrap();
        let mut unknown = with;
        unknown[at..at + 2].copy_from_slice(&999_u16.to_le_bytes());
        assert_eq!(Hello::decode(&unknown), Err(WireError::UnknownFeature(999)));
        assert!(FEATURES.common(none).recovers.is_none());
    }

    #[test]
    fn who_does_not_speak_of_flags_takes_part_in_all() {
        let mut bytes = hello().encode();
        let id = FEATURE_FLAGS.to_le_bytes();
        let named = [&id[..], &0_u16.to_le_bytes(), &4_u32.to_le_bytes()].concat();
        let at = bytes.windows(8).rposition(|bytes| bytes == named).unwrap();
        assert_eq!(Hello::decode(&bytes).unwrap().features.flags, 0b10110);
        bytes[at..at + 2].copy_from_slice(&999_u16.to_le_bytes());
        assert_eq!(Hello::decode(&bytes).unwrap().features.flags, u32::MAX);
        let other = Features { flags: 0b01100, ..FEATURES };
        assert_eq!(FEATURES.common(other).flags, 0b00100);
    }

    #[test]
    fn a_source_with_channels_needs_a_destination_that_knows_them() {
        let none = Features { multifd_channels: 0, ..FEATURES };
        let (with, without) = (hello().encode(), Hello { features: none, ..hello() }.encode());
        assert_eq!(Hello::decode(&without).unwrap().features, none);
        assert_eq!(with.len(), without.len() + 12, "no channels, no word of them");
        // As one that does not know the feature reads it.
        let id = FEATURE_MULTIFD_CHANNELS.to_le_bytes();
        let named = [&id[..], &CRITICAL.to_le_bytes(), &4_u32.to_le_bytes(), &4_u32.to_le_bytes()];
        let at = with.windows(12).position(|bytes| bytes == named.concat()).unwrap();
        let mut unknown = with;
        unknown[at..at + 2].copy_from_slice(&999_u16.to_le_bytes());
        assert_eq!(Hello::decode(&unknown), Err(WireError::UnknownFeature(999)));
    }

    #[test]
    fn a_page_count_that_overflows_is_named() {
        let mut bytes = hello().encode();
        let at = bytes.len() - 8;
        bytes[at..].copy_from_slice(&(!4095_u64).to_le_bytes());
        let error = Hello::decode(&bytes).unwrap_err().to_string();
        assert!(error.contains("\"ram\"") && error.contains("over"), "{error}");
    }
}
