//! All of a stopped guest's memory in one number, to compare a source with its destination.

use crate::LabError;
use dwcp::runtime::qemu::Qmp;
use serde_json::json;
use std::fs::{self, File};
use std::hash::Hasher;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use twox_hash::XxHash3_64;

/// Beyond it QEMU's machines leave a hole for devices.
const MAX_BYTES: u64 = 3 << 30;
const SAVE_TIMEOUT: Duration = Duration::from_secs(120);
const BLOCK_BYTES: usize = 1 << 20;

/// The XXH3-64 of physical memory from address zero on. The guest must be stopped.
///
/// # Errors
/// The guest runs or has over 3 GiB, or QEMU cannot write the file.
pub fn memory_digest(qmp: &mut Qmp) -> Result<u64, LabError> {
    let state = qmp.status()?;
    if state.running {
        return Err(LabError::Digest(format!("it is {}", state.status)));
    }
    let bytes = qmp.machine()?.memory_bytes;
    if bytes > MAX_BYTES {
        return Err(LabError::Digest(format!("{bytes} bytes, the limit is {MAX_BYTES}")));
    }
    let file = TemporaryFile::new();
    let arguments = json!({ "val": 0, "size": bytes, "filename": file.0.display().to_string() });
    qmp.execute_within("pmemsave", arguments, SAVE_TIMEOUT)?;
    let (digest, hashed) = hash(&file.0).map_err(LabError::system(file.0.display().to_string()))?;
    if hashed != bytes {
        return Err(LabError::Digest(format!("QEMU wrote {hashed} of {bytes} bytes")));
    }
    Ok(digest)
}

fn hash(path: &Path) -> std::io::Result<(u64, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = XxHash3_64::new();
    let mut block = vec![0; BLOCK_BYTES];
    let mut hashed = 0;
    loop {
        match file.read(&mut block)? {
            0 => return Ok((hasher.finish(), hashed)),
            count => {
                hasher.write(&block[..count]);
                hashed += count as u64;
            }
        }
    }
}

struct TemporaryFile(PathBuf);

impl TemporaryFile {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("dwcp-memory-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
