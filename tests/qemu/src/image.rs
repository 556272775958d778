//! What a guest boots from: a kernel, and an archive with one program. Kept between runs under the
//! hash of what it was made of.

use crate::cpio::Archive;
use crate::process::output_of;
use crate::{LabError, kernel};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use twox_hash::XxHash3_64;

const GUESTLOAD: &str = include_str!("../guest/guestload.c");
const COMPILER: &str = "cc";
const COMPILER_OPTIONS: [&str; 5] = ["-static", "-O2", "-Wall", "-Wextra", "-Werror"];

/// A kernel and a first file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// As QEMU's `-kernel` takes it.
    pub kernel: PathBuf,
    /// As QEMU's `-initrd` takes it.
    pub initramfs: PathBuf,
}

impl Image {
    /// The image in the build's own folder, made if it is not there yet.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn cached() -> Result<Self, LabError> {
        Self::build(&cache_dir())
    }

    /// The image in `cache_dir`, made if it is not there yet. The first time takes the network,
    /// for the kernel.
    ///
    /// # Errors
    /// No kernel can be had, or no static program can be built.
    pub fn build(cache_dir: &Path) -> Result<Self, LabError> {
        let named = |what: &str| LabError::system(format!("{what} {}", cache_dir.display()));
        fs::create_dir_all(cache_dir).map_err(named("make"))?;
        // Held until the file is dropped: several test programs may want the first image.
        let lock = File::create(cache_dir.join("lock")).map_err(named("open the lock of"))?;
        lock.lock().map_err(named("lock"))?;
        let kernel = kernel::kernel(cache_dir)?;
        let initramfs = cache_dir.join(format!("guest-{:016x}.cpio", recipe_hash()));
        if !initramfs.exists() {
            build_initramfs(cache_dir, &initramfs)?;
        }
        Ok(Self { kernel, initramfs })
    }
}

/// Where images are kept: `qemulab` in the build's target folder.
pub fn cache_dir() -> PathBuf {
    let beside_sources = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(beside_sources, PathBuf::from);
    target.join("qemulab")
}

fn recipe_hash() -> u64 {
    let options = COMPILER_OPTIONS.join(" ");
    // The archive's layout is part of the recipe.
    XxHash3_64::oneshot([GUESTLOAD, &options, include_str!("cpio.rs")].concat().as_bytes())
}

fn build_initramfs(cache_dir: &Path, initramfs: &Path) -> Result<(), LabError> {
    let source = cache_dir.join("guestload.c");
    let program = cache_dir.join("guestload");
    fs::write(&source, GUESTLOAD).map_err(LabError::system(source.display().to_string()))?;
    let mut compiler = Command::new(COMPILER);
    output_of(compiler.args(COMPILER_OPTIONS).arg("-o").arg(&program).arg(&source))?;
    let content = fs::read(&program).map_err(LabError::system(program.display().to_string()))?;
    let mut archive = Archive::default();
    archive.folder("dev");
    // The kernel opens it for the first process's output.
    archive.device("dev/console", 5, 1);
    archive.program("init", &content);
    let unfinished = cache_dir.join("guest.new");
    fs::write(&unfinished, archive.finish())
        .and_then(|()| fs::rename(&unfinished, initramfs))
        .map_err(LabError::system(initramfs.display().to_string()))
}
