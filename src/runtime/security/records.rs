//! Records of TLS 1.3 once the handshake is over (RFC 8446, section 5), each direction on its own.
//!
//! rustls seals and opens them; it also makes the next keys (`rustls::kernel`). What is here is what it
//! leaves to those who keep the two directions apart, as kTLS does: where a record begins and ends,
//! alerts, and the change of keys (section 4.6.3). Knows no socket.

use crate::runtime::lock::lock;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, Iv, MessageDecrypter, MessageEncrypter, OutboundChunks,
    OutboundPlainMessage,
};
use rustls::kernel::KernelConnection;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets,
    HandshakeType, InvalidMessage, PeerMisbehaved, ProtocolVersion, SupportedCipherSuite,
    Tls13CipherSuite,
};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Plaintext of one record, at most.
pub const RECORD_BYTES: usize = 1 << 14;
/// Type, version and length.
const HEADER_BYTES: usize = 5;
/// What follows a header, at most.
const MAX_SEALED_BYTES: usize = RECORD_BYTES + 256;
/// How a header begins: application data as far as anybody can see, and the version of old.
const HEADER: [u8; 3] = [23, 3, 3];
/// Records in a row that carry no data, such as changes of keys.
const MAX_IDLE_RECORDS: u32 = 32;
/// A change of keys, without its last byte, which asks the peer to change its own, or not.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];

/// Makes the next keys of either direction.
pub trait KeySchedule: Send {
    /// Those to seal with.
    ///
    /// # Errors
    /// The suite has none.
    fn next_sealing(&mut self) -> Result<ConnectionTrafficSecrets, Error>;

    /// Those to open with.
    ///
    /// # Errors
    /// The suite has none.
    fn next_opening(&mut self) -> Result<ConnectionTrafficSecrets, Error>;
}

impl<Data: Send> KeySchedule for KernelConnection<Data> {
    fn next_sealing(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.update_tx_secret()?.1)
    }

    fn next_opening(&mut self) -> Result<ConnectionTrafficSecrets, Error> {
        Ok(self.update_rx_secret()?.1)
    }
}

/// What both directions of a connection share.
struct Shared {
    suite: &'static Tls13CipherSuite,
    schedule: Mutex<Box<dyn KeySchedule>>,
    /// The peer wants us to change the keys that we seal with.
    is_update_due: AtomicBool,
}

/// Seals what is sent.
pub struct Sealer {
    shared: Arc<Shared>,
    encrypter: Box<dyn MessageEncrypter>,
    sequence: u64,
    /// Records that one key may seal.
    limit: u64,
}

/// Opens what comes.
pub struct Opener {
    shared: Arc<Shared>,
    decrypter: Box<dyn MessageDecrypter>,
    sequence: u64,
    idle_records: u32,
}

/// What stands at the beginning of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Opened {
    /// The first part of a record.
    Part,
    /// A record with data.
    Data {
        /// Of the whole record.
        bytes: usize,
        /// Where its data is now.
        data: Range<usize>,
    },
    /// A record of so many bytes that carries none.
    Idle(usize),
    /// The peer sends no more.
    Closed,
}

/// The two halves of a connection whose handshake is over.
///
/// # Errors
/// It is not TLS 1.3.
pub fn halves(
    suite: SupportedCipherSuite,
    secrets: ExtractedSecrets,
    schedule: Box<dyn KeySchedule>,
) -> Result<(Opener, Sealer), Error> {
    let suite = suite.tls13().ok_or(Error::HandshakeNotComplete)?;
    let is_update_due = AtomicBool::new(false);
    let shared = Arc::new(Shared { suite, schedule: Mutex::new(schedule), is_update_due });
    let ((sealed, sealing), (opened, opening)) = (secrets.tx, secrets.rx);
    let decrypter = shared.decrypter(opening)?;
    let opener = Opener { shared: shared.clone(), decrypter, sequence: opened, idle_records: 0 };
    let encrypter = shared.encrypter(sealing)?;
    // The record that tells of the change is still sealed with the old key.
    let limit = suite.common.confidentiality_limit - 1;
    Ok((opener, Sealer { shared, encrypter, sequence: sealed, limit }))
}

impl Shared {
    fn encrypter(
        &self,
        secrets: ConnectionTrafficSecrets,
    ) -> Result<Box<dyn MessageEncrypter>, Error> {
        let (key, iv) = key_and_iv(secrets)?;
        Ok(self.suite.aead_alg.encrypter(key, iv))
    }

    fn decrypter(
        &self,
        secrets: ConnectionTrafficSecrets,
    ) -> Result<Box<dyn MessageDecrypter>, Error> {
        let (key, iv) = key_and_iv(secrets)?;
        Ok(self.suite.aead_alg.decrypter(key, iv))
    }
}

impl Sealer {
    /// Seals data, a record for each [`RECORD_BYTES`] of it; records are added to `records`.
    ///
    /// # Errors
    /// There are no further keys.
    pub fn seal(
        &mut self,
        data: OutboundChunks<'_>,
        records: &mut Vec<Vec<u8>>,
    ) -> Result<(), Error> {
        let mut rest = data;
        while !rest.is_empty() {
            if self.shared.is_update_due.swap(false, Ordering::Relaxed)
                || self.sequence >= self.limit
            {
                self.change_keys(records)?;
            }
            let (record, more) = rest.split_at(RECORD_BYTES.min(rest.len()));
            records.push(self.record(ContentType::ApplicationData, record)?);
            rest = more;
        }
        Ok(())
    }

    /// So many records under each key from now on.
    #[cfg(test)]
    pub fn limit_records(&mut self, limit: u64) {
        self.limit = limit;
    }

    fn change_keys(&mut self, records: &mut Vec<Vec<u8>>) -> Result<(), Error> {
        const NOT_REQUESTED: &[u8] = &[0];
        let message: &[&[u8]] = &[&KEY_UPDATE, NOT_REQUESTED];
        records.push(self.record(ContentType::Handshake, OutboundChunks::new(message))?);
        let secrets = lock(&self.shared.schedule).next_sealing()?;
        self.encrypter = self.shared.encrypter(secrets)?;
        self.sequence = 0;
        Ok(())
    }

    fn record(&mut self, typ: ContentType, payload: OutboundChunks<'_>) -> Result<Vec<u8>, Error> {
        let plain = OutboundPlainMessage { typ, version: ProtocolVersion::TLSv1_2, payload };
        let sealed = self.encrypter.encrypt(plain, self.sequence)?;
        self.sequence += 1;
        Ok(sealed.encode())
    }
}

impl Opener {
    /// Opens the record at the beginning of `bytes`, where it lies.
    ///
    /// # Errors
    /// It is no record, it was changed on its way, it is an alert, or it is what nobody sends after
    /// a handshake. The connection is of no use then.
    pub fn open(&mut self, bytes: &mut [u8]) -> Result<Opened, Error> {
        let Some(header) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(Opened::Part) };
        let sealed_bytes = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[..3] != HEADER {
            return Err(InvalidMessage::InvalidContentType.into());
        }
        if sealed_bytes > MAX_SEALED_BYTES {
            return Err(Error::PeerSentOversizedRecord);
        }
        let whole = HEADER_BYTES + sealed_bytes;
        let Some(sealed) = bytes.get_mut(HEADER_BYTES..whole) else { return Ok(Opened::Part) };
        let version = ProtocolVersion::TLSv1_2;
        let record = InboundOpaqueMessage::new(ContentType::ApplicationData, version, sealed);
        let plain = self.decrypter.decrypt(record, self.sequence)?;
        self.sequence += 1;
        match (plain.typ, plain.payload) {
            (ContentType::ApplicationData, payload) if !payload.is_empty() => {
                self.idle_records = 0;
                let data = HEADER_BYTES..HEADER_BYTES + payload.len();
                return Ok(Opened::Data { bytes: whole, data });
            }
            (ContentType::ApplicationData, _) => {}
            (ContentType::Alert, &[_, description]) => {
                return match description.into() {
                    AlertDescription::CloseNotify => Ok(Opened::Closed),
                    description => Err(Error::AlertReceived(description)),
                };
            }
            (ContentType::Handshake, &[kind, 0, 0, 1, is_wanted @ (0 | 1)])
                if kind == KEY_UPDATE[0] =>
            {
                self.change_keys(is_wanted == 1)?;
            }
            (ContentType::Handshake, payload) => {
                return Err(Error::InappropriateHandshakeMessage {
                    expect_types: vec![HandshakeType::KeyUpdate],
                    got_type: payload.first().copied().unwrap_or(0).into(),
                });
            }
            _ => return Err(InvalidMessage::InvalidContentType.into()),
        }
        self.idle_records += 1;
        if self.idle_records > MAX_IDLE_RECORDS {
            return Err(PeerMisbehaved::TooManyKeyUpdateRequests.into());
        }
        Ok(Opened::Idle(whole))
    }

    fn change_keys(&mut self, is_wanted: bool) -> Result<(), Error> {
        let secrets = lock(&self.shared.schedule).next_opening()?;
        self.decrypter = self.shared.decrypter(secrets)?;
        self.sequence = 0;
        if is_wanted {
            self.shared.is_update_due.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn key_and_iv(secrets: ConnectionTrafficSecrets) -> Result<(AeadKey, Iv), Error> {
    match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv }
        | ConnectionTrafficSecrets::Aes256Gcm { key, iv }
        | ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => Ok((key, iv)),
        _ => Err(Error::General("a cipher that this library does not know".to_owned())),
    }
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
