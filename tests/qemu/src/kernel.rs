//! The guest's kernel: Debian's package, unpacked without being installed.

use crate::LabError;
use crate::packages::{self, Package};
use std::fs;
use std::path::{Path, PathBuf};

/// Names a kernel image to be used instead.
const OVERRIDE: &str = "DWCP_QEMULAB_KERNEL";
/// The smaller one; it has what QEMU's machines have.
const PACKAGE: &str = "linux-image-cloud-amd64";

/// The kernel kept in `cache`; if there is none yet, Debian's, or else that of this machine.
pub fn kernel(cache: &Path) -> Result<PathBuf, LabError> {
    if let Some(path) = std::env::var_os(OVERRIDE) {
        return Ok(PathBuf::from(path));
    }
    let folder = cache.join("kernel");
    fetched(&folder).or_else(|error| {
        let own = newest_kernel(Path::new("/boot")).filter(|path| fs::File::open(path).is_ok());
        own.ok_or_else(|| {
            LabError::Kernel(format!("{error}; /boot has none; {OVERRIDE}=FILE names one"))
        })
    })
}

fn fetched(folder: &Path) -> Result<PathBuf, LabError> {
    if let Some(kept) = newest_kernel(folder) {
        return Ok(kept);
    }
    let is_kernel = |name: &str| name.starts_with("boot/vmlinuz-");
    packages::unpacked(&[Package::Behind(PACKAGE)], folder, is_kernel)?;
    newest_kernel(folder).ok_or_else(|| LabError::Kernel(format!("no vmlinuz in {PACKAGE}")))
}

/// The kernel of the highest version in a folder or below it.
pub fn newest_kernel(folder: &Path) -> Option<PathBuf> {
    let is_kernel = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
    };
    packages::files_below(folder).into_iter().filter(is_kernel).max()
}
