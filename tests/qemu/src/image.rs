//! What a guest boots from: a kernel, and an archive with one program. Kept between runs under the
//! hash of what it was made of.

use crate::cpio::Archive;
use crate::process::output_of;
use crate::{LabError, kernel, packages};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use twox_hash::XxHash3_64;

const GUESTLOAD: &str = include_str!("../guest/guestload.c");
/// What both include.
const LOAD_HEADER: (&str, &str) = ("load.h", include_str!("../guest/load.h"));
const REDISLOAD: &str = include_str!("../guest/redisload.c");
/// The server, under the name by which Debian's redis-tools ships it.
const REDIS_SERVER: &str = "/usr/bin/redis-check-rdb";
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
        Self::of(cache_dir, &Recipe { name: "guest", source: GUESTLOAD, server: None })
    }

    /// As [`Self::cached`], for [`Load::Redis`](crate::Load::Redis).
    ///
    /// # Errors
    /// As [`Self::build`], and this machine has no redis-server to be put into the guest.
    pub fn cached_with_redis() -> Result<Self, LabError> {
        let server = Some(Path::new(REDIS_SERVER));
        Self::of(&cache_dir(), &Recipe { name: "redis", source: REDISLOAD, server })
    }

    fn of(cache_dir: &Path, recipe: &Recipe<'_>) -> Result<Self, LabError> {
        let _lock = packages::lock(cache_dir)?;
        let kernel = kernel::kernel(cache_dir)?;
        let initramfs = cache_dir.join(format!("{}-{:016x}.cpio", recipe.name, recipe.hash()));
        if !initramfs.exists() {
            recipe.build(cache_dir, &initramfs)?;
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

/// What is in the first file system.
struct Recipe<'a> {
    name: &'a str,
    /// Of the first program.
    source: &'a str,
    /// A program of this machine that it starts, with the libraries that this one needs.
    server: Option<&'a Path>,
}

impl Recipe<'_> {
    fn hash(&self) -> u64 {
        let options = COMPILER_OPTIONS.join(" ");
        // The archive's layout is part of the recipe.
        let parts = [self.source, LOAD_HEADER.1, &options, include_str!("cpio.rs")];
        XxHash3_64::oneshot(parts.concat().as_bytes())
    }

    fn build(&self, cache_dir: &Path, initramfs: &Path) -> Result<(), LabError> {
        let program = cache_dir.join(self.name);
        let source = program.with_extension("c");
        for (path, text) in
            [(&source, self.source), (&cache_dir.join(LOAD_HEADER.0), LOAD_HEADER.1)]
        {
            fs::write(path, text).map_err(LabError::system(path.display().to_string()))?;
        }
        let mut compiler = Command::new(COMPILER);
        output_of(compiler.args(COMPILER_OPTIONS).arg("-o").arg(&program).arg(&source))?;
        let mut archive = Archive::default();
        archive.folder("dev");
        // The kernel opens it for the first process's output.
        archive.device("dev/console", 5, 1);
        archive.device("dev/null", 1, 3);
        archive.program("init", &read(&program)?);
        if let Some(server) = self.server {
            add_server(&mut archive, server)?;
        }
        let unfinished = program.with_extension("new");
        fs::write(&unfinished, archive.finish())
            .and_then(|()| fs::rename(&unfinished, initramfs))
            .map_err(LabError::system(initramfs.display().to_string()))
    }
}

/// Adds a program and the libraries that the loader would give it, under their own names.
fn add_server(archive: &mut Archive, server: &Path) -> Result<(), LabError> {
    for folder in ["usr", "usr/bin", "lib", "lib/x86_64-linux-gnu", "lib64"] {
        archive.folder(folder);
    }
    archive.program("usr/bin/redis-server", &read(server)?);
    for library in libraries_of(server)? {
        archive.program(&library.display().to_string()[1..], &read(&library)?);
    }
    Ok(())
}

/// The libraries that the loader would give a program, itself among them.
///
/// # Errors
/// `ldd` does not know the program.
pub fn libraries_of(program: &Path) -> Result<Vec<PathBuf>, LabError> {
    let listed = output_of(Command::new("ldd").arg(program))?;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

fn read(path: &Path) -> Result<Vec<u8>, LabError> {
    fs::read(path).map_err(LabError::system(path.display().to_string()))
}
