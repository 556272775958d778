//! Files of Debian's packages, fetched and unpacked without being installed.

use crate::LabError;
use crate::process::output_of;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Keeps others out of a cache until it is dropped: several test programs may want to be first.
///
/// # Errors
/// The folder cannot be made or locked.
pub fn lock(cache: &Path) -> Result<File, LabError> {
    let named = |what: &str| LabError::system(format!("{what} {}", cache.display()));
    fs::create_dir_all(cache).map_err(named("make"))?;
    let lock = File::create(cache.join("lock")).map_err(named("open the lock of"))?;
    lock.lock().map_err(named("lock"))?;
    Ok(lock)
}

/// A package by its name.
#[derive(Clone, Copy, Debug)]
pub enum Package<'a> {
    /// This one.
    Named(&'a str),
    /// The one that this one stands for, as `linux-image-amd64` for a kernel of some version.
    Behind(&'a str),
}

/// A folder with those files of the packages that are `wanted`, by their path in it; kept as `folder`
/// from the first time on. The cache must be locked.
///
/// # Errors
/// The packages cannot be had.
pub fn unpacked(
    packages: &[Package<'_>],
    folder: &Path,
    wanted: impl Fn(&str) -> bool,
) -> Result<(), LabError> {
    if folder.exists() {
        return Ok(());
    }
    let download = || download(packages, folder, &wanted);
    // A machine may have no list of packages, or one that names a version which is gone by now.
    download().or_else(|_| update_lists().and_then(|()| download()))
}

/// Every file below a folder, by its path in it.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            if is_folder { &mut folders } else { &mut files }.push(path);
        }
    }
    files.sort();
    files
}

fn update_lists() -> Result<(), LabError> {
    output_of(Command::new("apt-get").args(["update", "-q"])).map(drop)
}

fn name_of(package: &Package<'_>) -> Result<String, LabError> {
    let name = match *package {
        Package::Named(name) => return Ok(name.to_owned()),
        Package::Behind(name) => name,
    };
    let text = output_of(Command::new("apt-cache").args(["depends", name]))?;
    let found = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    found.map(str::to_owned).ok_or_else(|| {
        LabError::Kernel(format!("apt knows no {name}; `apt-get update` would tell it"))
    })
}

fn download(
    packages: &[Package<'_>],
    folder: &Path,
    wanted: &impl Fn(&str) -> bool,
) -> Result<(), LabError> {
    let unpacked = folder.with_extension("new");
    let failed = |what: &Path| LabError::system(what.display().to_string());
    let _ = fs::remove_dir_all(&unpacked);
    fs::create_dir_all(&unpacked).map_err(failed(&unpacked))?;
    let names = packages.iter().map(name_of).collect::<Result<Vec<_>, _>>()?;
    output_of(Command::new("apt-get").args(["download", "-q"]).args(names).current_dir(&unpacked))?;
    for archive in files_below(&unpacked) {
        output_of(Command::new("dpkg-deb").arg("-x").arg(&archive).arg(&unpacked))?;
        fs::remove_file(&archive).map_err(failed(&archive))?;
    }
    // The rest would be hundreds of MB for nothing.
    for file in files_below(&unpacked) {
        let name = file.strip_prefix(&unpacked).unwrap_or(&file).to_string_lossy();
        if !wanted(&name) {
            fs::remove_file(&file).map_err(failed(&file))?;
        }
    }
    fs::rename(&unpacked, folder).map_err(failed(folder))
}
