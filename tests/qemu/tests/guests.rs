//! Guests of the laboratory boot, prove their memory, and live through QEMU's own migrations.

use dwcp_netlab::{Host, Lab};
use dwcp_qemulab::baseline::{self, Baseline, Measured, Mode};
use dwcp_qemulab::{Image, LabError, Load, Vm, VmConfig, memory_digest};
use std::os::unix::fs::FileExt;
use std::time::Duration;

type Outcome = Result<(), Box<dyn std::error::Error>>;

const MIB: u64 = 1 << 20;
const PAGE_BYTES: usize = 4096;
/// As in [`VmConfig::default`].
const TEXT: Load = Load::Text { mib: 32, rate_mib: 4 };
const BOOT: Duration = Duration::from_secs(90);

#[test]
fn a_guest_goes_on_counting_after_a_migration() -> Outcome {
    let image = Image::cached()?;
    let config = VmConfig { image: Some(&image), load: TEXT, ..VmConfig::default() };
    let source = Vm::start(&config)?;
    assert!(source.wait_for_line("ready", BOOT)?.contains("mode=text pages=8192"));
    source.wait_for_tick(3, BOOT)?;
    let destination = Vm::start(&VmConfig { incoming: true, paused: true, ..config })?;
    let uri = format!("unix:{}", destination.folder().join("migrate.sock").display());
    migrate(&source, &destination, Mode::Plain, &uri, None)?;
    let counted = source.last_tick();
    let mut qmp = destination.qmp()?;
    assert_eq!(memory_digest(&mut source.qmp()?)?, memory_digest(&mut qmp)?);
    qmp.cont()?;
    // Four ticks verify every page.
    destination.wait_for_tick(counted + 5, BOOT)?;
    assert_eq!(source.last_tick(), counted, "the guest runs twice");
    assert_eq!((source.complaint(), destination.complaint()), (None, None));
    Ok(())
}

#[test]
fn a_page_that_is_not_what_the_guest_wrote_is_noticed() -> Outcome {
    let image = Image::cached()?;
    let load = Load::Text { mib: 16, rate_mib: 0 };
    let vm = Vm::start(&VmConfig { image: Some(&image), load, ..VmConfig::default() })?;
    vm.wait_for_tick(1, BOOT)?;
    vm.qmp()?.stop()?;
    let before = memory_digest(&mut vm.qmp()?)?;
    damage_a_page(vm.pid())?;
    assert_ne!(before, memory_digest(&mut vm.qmp()?)?);
    vm.qmp()?.cont()?;
    assert!(vm.wait_for_line("CORRUPT", BOOT)?.contains("page="));
    vm.wait_for_line("checksum=BAD", BOOT)?;
    assert!(vm.complaint().is_some());
    Ok(())
}

/// Needs root, as every test with two hosts does.
#[test]
fn qemu_migrates_in_every_mode_between_two_hosts() -> Outcome {
    let lab = Lab::veth()?;
    let image = Image::cached()?;
    let config = VmConfig { image: Some(&image), load: TEXT, ..VmConfig::default() };
    let hosts = [lab.a(), lab.b()];
    let mut vm = Vm::start(&VmConfig { host: Some(hosts[0]), ..config.clone() })?;
    vm.wait_for_tick(1, BOOT)?;
    let mut wire = Vec::new();
    let modes = [Mode::Plain, Mode::MultifdZstd { channels: 2 }, Mode::Compress];
    for (number, mode) in modes.into_iter().enumerate() {
        if mode == Mode::Compress && !vm.qmp()?.capabilities()?.contains_key("compress") {
            eprintln!("{mode:?} is gone from this QEMU and was not tested");
            continue;
        }
        let (from, to) = (hosts[number % 2], hosts[(number + 1) % 2]);
        let next = Vm::start(&VmConfig { incoming: true, host: Some(to), ..config.clone() })?;
        let counted = vm.last_tick();
        let uri = format!("tcp:{}:4444", to.ipv4());
        let measured = match migrate(&vm, &next, mode, &uri, Some(from)) {
            // Its races end so too; a mode that is not even accepted is another error.
            Err(error @ LabError::Migration { .. }) if mode == Mode::Compress => {
                eprintln!("{error}");
                continue;
            }
            other => other?,
        };
        eprintln!("{mode:?}: {measured:?}");
        // What that mode leaves of a guest is QEMU's affair.
        if mode != Mode::Compress {
            next.wait_for_tick(counted + 2, BOOT)?;
            assert_eq!((vm.complaint(), next.complaint()), (None, None));
        }
        wire.push(measured.wire_bytes.ok_or("not counted")?);
        vm = next;
    }
    assert!(wire[0] > 32 * MIB, "{wire:?}");
    assert!(wire[1..].iter().all(|&bytes| bytes > MIB && bytes < wire[0]), "{wire:?}");
    Ok(())
}

#[test]
fn a_migration_to_nowhere_fails_with_the_reason_of_qemu() -> Outcome {
    let config = VmConfig { memory_mib: 64, paused: true, ..VmConfig::default() };
    let source = Vm::start(&config)?;
    let destination = Vm::start(&VmConfig { incoming: true, ..config })?;
    let error = migrate(&source, &destination, Mode::Plain, "nonsense:", None).unwrap_err();
    assert!(matches!(error, LabError::Qmp(_)), "{error}");
    Ok(())
}

#[test]
fn a_qemu_that_does_not_start_says_why() {
    let config = VmConfig { machine: "no-such-machine", ..VmConfig::default() };
    let error = Vm::start(&config).map(drop).unwrap_err().to_string();
    assert!(error.contains("unsupported machine type"), "{error}");
    let image = Image { kernel: "/no-such-kernel".into(), initramfs: "/no-such-file".into() };
    let config = VmConfig { image: Some(&image), ..VmConfig::default() };
    let error = Vm::start(&config).map(drop).unwrap_err().to_string();
    assert!(error.contains("no-such-kernel"), "{error}");
}

fn migrate(
    source: &Vm,
    destination: &Vm,
    mode: Mode,
    uri: &str,
    counted: Option<&Host>,
) -> Result<Measured, LabError> {
    let counter = counted.map(baseline::sent_by);
    let baseline = Baseline {
        mode,
        uri,
        downtime_limit: Duration::from_millis(300),
        timeout: Duration::from_secs(60),
        wire_bytes: counter.as_ref().map(|count| count as &dyn Fn() -> u64),
    };
    baseline::migrate(&mut source.qmp()?, &mut destination.qmp()?, &baseline)
}

/// Writes into one page of text in the largest mapping of a QEMU, guest memory.
fn damage_a_page(pid: u32) -> Outcome {
    let (from, to) = guest_memory(pid)?;
    let mut options = std::fs::OpenOptions::new();
    let memory = options.read(true).write(true).open(format!("/proc/{pid}/mem"))?;
    let is_text = |byte: &u8| byte.is_ascii_lowercase() || b" \n".contains(byte);
    for at in (from..to).step_by(PAGE_BYTES) {
        let mut page = [0; PAGE_BYTES];
        memory.read_exact_at(&mut page, at)?;
        if page.iter().all(is_text) {
            return Ok(memory.write_all_at(b"?", at + 1000)?);
        }
    }
    Err("no page of text".into())
}

fn guest_memory(pid: u32) -> Result<(u64, u64), Box<dyn std::error::Error>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory_bytes = VmConfig::default().memory_bytes();
    for line in maps.lines() {
        let (from, rest) = line.split_once('-').ok_or(line)?;
        let to = rest.split(' ').next().unwrap_or(rest);
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        if to - from == memory_bytes {
            return Ok((from, to));
        }
    }
    Err(format!("no mapping of {memory_bytes} bytes in {maps}").into())
}
