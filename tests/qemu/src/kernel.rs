//! The guest's kernel: Debian's package, unpacked without being installed.

use crate::LabError;
use crate::process::output_of;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    if let Some(kept) = newest_kernel(&folder) {
        return Ok(kept);
    }
    // A machine may have no list of packages, or one that names a kernel which is gone by now.
    let fetched = download(&folder).or_else(|_| update_lists().and_then(|()| download(&folder)));
    fetched.or_else(|error| {
        let own = newest_kernel(Path::new("/boot")).filter(|path| fs::File::open(path).is_ok());
        own.ok_or_else(|| {
            LabError::Kernel(format!("{error}; /boot has none; {OVERRIDE}=FILE names one"))
        })
    })
}

fn download(folder: &Path) -> Result<PathBuf, LabError> {
    let unpacked = folder.with_extension("new");
    let _ = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked).map_err(LabError::system(unpacked.display().to_string()))?;
    let package = versioned_package()?;
    output_of(
        Command::new("apt-get").args(["download", "-q"]).arg(&package).current_dir(&unpacked),
    )?;
    let archive = files_of(&unpacked).pop();
    let archive = archive.ok_or_else(|| LabError::Kernel(format!("no file of {package}")))?;
    output_of(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
    let image = newest_kernel(&unpacked.join("boot"));
    let image = image.ok_or_else(|| LabError::Kernel(format!("no vmlinuz in {package}")))?;
    keep_only(&image, &unpacked, folder)
}

fn update_lists() -> Result<(), LabError> {
    output_of(Command::new("apt-get").args(["update", "-q"])).map(drop)
}

/// The package that the one without a version stands for.
fn versioned_package() -> Result<String, LabError> {
    let text = output_of(Command::new("apt-cache").args(["depends", PACKAGE]))?;
    let depends = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    depends.map(str::to_owned).ok_or_else(|| {
        LabError::Kernel(format!("apt knows no {PACKAGE}; `apt-get update` would tell it"))
    })
}

/// The image alone: modules and the package would be 100 MB for nothing.
fn keep_only(image: &Path, unpacked: &Path, folder: &Path) -> Result<PathBuf, LabError> {
    let failed = || LabError::system(format!("keep {}", image.display()));
    let kept = folder.join(image.file_name().unwrap_or_default());
    fs::create_dir_all(folder).map_err(failed())?;
    fs::rename(image, &kept).map_err(failed())?;
    fs::remove_dir_all(unpacked).map_err(failed())?;
    Ok(kept)
}

fn newest_kernel(folder: &Path) -> Option<PathBuf> {
    let is_kernel = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
    };
    files_of(folder).into_iter().filter(is_kernel).max()
}

fn files_of(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}
