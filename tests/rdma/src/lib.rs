//! A laboratory of real verbs without hardware for them: a guest under QEMU whose kernel makes an RDMA
//! device of a network interface (soft-RoCE, `rdma_rxe`).
//!
//! The guest's first process is `dwcp-rdma-guest`, a program of this crate that uses the library as a
//! node does. Kernel, modules and libibverbs come from Debian's archive and are kept in
//! `target/qemulab/rdma`; nothing of them need be installed here.

use dwcp_qemulab::packages::Package;
use dwcp_qemulab::{
    Archive, Image, LabError, cache_dir, libraries_of, newest_kernel, output_of, packages,
};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The kernel with modules; the smaller flavour has no `rdma_rxe`.
const KERNEL: &str = "linux-image-amd64";
const LIBRARIES: [&str; 4] =
    ["libibverbs1", "ibverbs-providers", "libnl-3-200", "libnl-route-3-200"];
/// What the guest loads, after what these need. `rdma_rxe` asks for `crc32` without saying so.
const MODULES: [&str; 3] = ["crc32_generic", "dummy", "rdma_rxe"];
/// Programs of this machine that the guest runs, both of iproute2.
const PROGRAMS: [&str; 2] = ["ip", "rdma"];

/// Perftest, and what it needs beside libibverbs: it is linked with the drivers of two cards.
const PERFTEST: [&str; 5] =
    ["perftest", "ibverbs-providers", "libibumad3", "libpci3", "librdmacm1"];
/// The file by which the guest knows that it is to measure.
const BENCH_MARK: &str = "bench";

/// What the guest is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// To try every scenario.
    Scenarios,
    /// To measure, beside perftest.
    Bench,
}

/// A guest's kernel and first file system; the latter goes with it.
#[derive(Debug)]
pub struct GuestImage(Image);

impl GuestImage {
    /// An image whose first process is `program`. The first time takes the network.
    ///
    /// # Errors
    /// Packages cannot be had, or a program is missing.
    pub fn build(program: &Path, task: Task) -> Result<Self, LabError> {
        let cache = cache_dir();
        let _lock = packages::lock(&cache)?;
        let folder = cache.join("rdma");
        let libraries = LIBRARIES.map(Package::Named);
        let all = [&libraries[..], &[Package::Behind(KERNEL)]].concat();
        packages::unpacked(&all, &folder, is_wanted)?;
        let kernel = newest_kernel(&folder)
            .ok_or_else(|| LabError::Kernel(format!("none in {}", folder.display())))?;
        let initramfs = cache.join(format!("rdma-{}.cpio", std::process::id()));
        let stripped = initramfs.with_extension("program");
        output_of(Command::new("strip").arg("-o").arg(&stripped).arg(program))?;
        let mut tree = Tree::default();
        tree.add_program("init", &stripped)?;
        let _ = fs::remove_file(&stripped);
        tree.add_packages(&folder)?;
        for program in PROGRAMS {
            tree.add_program(&format!("sbin/{program}"), &find(program)?)?;
        }
        if task == Task::Bench {
            let perftest = cache.join("perftest");
            packages::unpacked(&PERFTEST.map(Package::Named), &perftest, is_of_perftest)?;
            tree.add_folder(&perftest)?;
            tree.add(BENCH_MARK, b"");
        }
        fs::write(&initramfs, tree.finish()).map_err(failed(&initramfs))?;
        Ok(Self(Image { kernel, initramfs }))
    }

    /// As QEMU takes it.
    pub fn image(&self) -> &Image {
        &self.0
    }
}

impl Drop for GuestImage {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0.initramfs);
    }
}

/// A file system under construction; folders come with the files in them.
#[derive(Debug, Default)]
struct Tree {
    archive: Archive,
    names: BTreeSet<String>,
}

impl Tree {
    fn add(&mut self, name: &str, content: &[u8]) {
        let parents: Vec<_> = name.match_indices('/').map(|(at, _)| &name[..at]).collect();
        for parent in parents {
            if self.names.insert(parent.to_owned()) {
                self.archive.folder(parent);
            }
        }
        if self.names.insert(name.to_owned()) {
            self.archive.program(name, content);
        }
    }

    fn add_program(&mut self, name: &str, path: &Path) -> Result<(), LabError> {
        self.add(name, &read(path)?);
        for library in libraries_of(path)? {
            self.add(&library.display().to_string()[1..], &read(&library)?);
        }
        Ok(())
    }

    /// The libraries where they belong, and the modules in the order in which they load.
    fn add_packages(&mut self, folder: &Path) -> Result<(), LabError> {
        let files = packages::files_below(folder);
        let is_module = |path: &&PathBuf| path.extension().is_some_and(|kind| kind == "ko");
        let modules: Vec<&PathBuf> = files.iter().filter(is_module).collect();
        for (number, path) in load_order(&modules)?.into_iter().enumerate() {
            self.add(&format!("modules/{number:02}-{}.ko", module_name(path)), &read(path)?);
        }
        self.add_files(folder, files.iter().filter(|path| !is_module(path)))
    }

    /// Everything in the folder, and what of this machine its libraries need.
    fn add_folder(&mut self, folder: &Path) -> Result<(), LabError> {
        let files = packages::files_below(folder);
        self.add_files(folder, files.iter())?;
        for library in files.iter().map(|path| libraries_of(path)).collect::<Result<Vec<_>, _>>()? {
            for library in library {
                self.add(&library.display().to_string()[1..], &read(&library)?);
            }
        }
        Ok(())
    }

    fn add_files<'a>(
        &mut self,
        folder: &Path,
        files: impl Iterator<Item = &'a PathBuf>,
    ) -> Result<(), LabError> {
        for path in files {
            let name = path.strip_prefix(folder).unwrap_or(path).to_string_lossy();
            if !name.starts_with("boot/") {
                self.add(&name, &read(path)?);
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Vec<u8> {
        for folder in ["dev", "proc", "sys", "run"] {
            self.archive.folder(folder);
        }
        // The kernel opens it for the first process's output.
        self.archive.device("dev/console", 5, 1);
        self.archive.finish()
    }
}

fn is_wanted(name: &str) -> bool {
    const MODULE_FOLDERS: [&str; 7] = [
        "crypto/crc32_generic.ko",
        "drivers/net/dummy.ko",
        "drivers/infiniband/core/",
        "drivers/infiniband/sw/rxe/",
        "net/ipv4/udp_tunnel.ko",
        "net/ipv6/ip6_udp_tunnel.ko",
        "lib/",
    ];
    let module = name.strip_prefix("lib/modules/").and_then(|rest| rest.split_once("/kernel/"));
    match module {
        Some((_, path)) => MODULE_FOLDERS.iter().any(|folder| path.starts_with(folder)),
        None if name.starts_with("boot/") => name.starts_with("boot/vmlinuz-"),
        None => {
            name == "etc/libibverbs.d/rxe.driver"
                || name.contains("/librxe-")
                || ["libibverbs.so", "libnl-3.so", "libnl-route-3.so"]
                    .iter()
                    .any(|library| name.contains(&format!("-linux-gnu/{library}")))
        }
    }
}

fn is_of_perftest(name: &str) -> bool {
    let is_library = ["libefa.so", "libibumad.so", "libmlx5.so", "libpci.so", "librdmacm.so"]
        .iter()
        .any(|library| name.contains(&format!("-linux-gnu/{library}")));
    is_library || name == "usr/bin/ib_read_bw"
}

/// [`MODULES`], each after those that it needs.
fn load_order<'a>(modules: &[&'a PathBuf]) -> Result<Vec<&'a PathBuf>, LabError> {
    let mut order = Vec::new();
    for name in MODULES {
        add_in_order(name, modules, &mut order)?;
    }
    Ok(order)
}

fn add_in_order<'a>(
    name: &str,
    modules: &[&'a PathBuf],
    order: &mut Vec<&'a PathBuf>,
) -> Result<(), LabError> {
    if order.iter().any(|path| module_name(path) == name) {
        return Ok(());
    }
    let path = modules.iter().find(|path| module_name(path) == name);
    let path = path.ok_or_else(|| LabError::Kernel(format!("it has no module {name}")))?;
    for needed in needed_by(&read(path)?) {
        add_in_order(&needed, modules, order)?;
    }
    order.push(path);
    Ok(())
}

/// The kernel writes a dash in a file's name and an underscore elsewhere.
fn module_name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_")
}

/// The line `depends=` in a module's description of itself.
fn needed_by(module: &[u8]) -> Vec<String> {
    const MARK: &[u8] = b"\0depends=";
    let Some(at) = module.windows(MARK.len()).position(|window| window == MARK) else {
        return Vec::new();
    };
    let list = module[at + MARK.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let list = String::from_utf8_lossy(list).replace('-', "_");
    list.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn find(program: &str) -> Result<PathBuf, LabError> {
    let folders = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let paths = folders.map(|folder| Path::new(folder).join(program));
    let missing = || std::io::Error::new(std::io::ErrorKind::NotFound, "install iproute2");
    paths
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(missing)
        .map_err(failed(Path::new(program)))
}

fn read(path: &Path) -> Result<Vec<u8>, LabError> {
    fs::read(path).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(std::io::Error) -> LabError {
    let what = path.display().to_string();
    move |source| LabError::System { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_says_what_it_needs() {
        let module = b"\x7fELF..\0license=GPL\0depends=ib-uverbs,ib_core\0retpoline=Y\0";
        assert_eq!(needed_by(module), ["ib_uverbs", "ib_core"]);
        assert!(needed_by(b"\0depends=\0name=x\0").is_empty());
        assert!(needed_by(b"none").is_empty());
    }

    #[test]
    fn folders_come_before_their_files_and_once() {
        let mut tree = Tree::default();
        tree.add("lib/a/x", b"1");
        tree.add("lib/a/y", b"2");
        tree.add("lib/a/x", b"again");
        let names: Vec<&str> = tree.names.iter().map(String::as_str).collect();
        assert_eq!(names, ["lib", "lib/a", "lib/a/x", "lib/a/y"]);
        let text = String::from_utf8_lossy(&tree.finish()).into_owned();
        assert!(text.find("lib/a\0") < text.find("lib/a/x\0"), "{text}");
        assert!(!text.contains("again"));
    }
}
