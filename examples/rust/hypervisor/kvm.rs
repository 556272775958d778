//! The guest on /dev/kvm: one slot of memory with KVM's dirty log, one virtual CPU.

use crate::guest::{Kind, Machine, Parts};
use crate::program::{CODE_ADDRESS, Memory, TABLES_ADDRESS};
use dwcp::migration::GuestError;
use dwcp::runtime::mapped_guest::DirtyLog;
use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_LOG_DIRTY_PAGES, Msrs, kvm_fpu, kvm_msr_entry, kvm_regs,
    kvm_segment, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events,
};
use kvm_ioctls::{Cap, Kvm, VcpuExit, VcpuFd, VmFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

const PACER_PORT: u16 = 0x10;
const MSR_TSC: u32 = 0x10;
const KICK_SIGNAL: libc::c_int = libc::SIGUSR1;

/// What migrates of a virtual CPU, laid out as in `examples/c/guest_kvm.c`. The kernel's structs
/// are its ABI, the same on every x86-64.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CpuState {
    registers: kvm_regs,
    segments: kvm_sregs,
    fpu: kvm_fpu,
    events: kvm_vcpu_events,
    time_stamp_counter: u64,
}

struct KvmMachine {
    cpu: VcpuFd,
}

struct KvmLog {
    vm: Arc<VmFd>,
    memory: Memory,
}

/// The flag that keeps a CPU from entering its guest; in the page shared with the kernel, which
/// lives as long as the machine.
struct ExitFlag(*mut u8);

// SAFETY: one byte that is only accessed atomically.
unsafe impl Send for ExitFlag {}
// SAFETY: as above.
unsafe impl Sync for ExitFlag {}

/// A guest on this host's KVM, or why not.
pub fn open(memory: Memory) -> Result<Parts, String> {
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm: {error}"))?;
    if !kvm.check_extension(Cap::ImmediateExit) {
        return Err("KVM lacks KVM_CAP_IMMEDIATE_EXIT".into());
    }
    let vm = Arc::new(kvm.create_vm().map_err(|error| format!("KVM_CREATE_VM: {error}"))?);
    // Pages that Intel processors need to themselves; above all memory, below 4 GiB.
    let _ = vm.set_identity_map_address(0xfffb_c000);
    let _ = vm.set_tss_address(0xfffb_d000);
    let log = KvmLog { vm: vm.clone(), memory };
    log.set(0)?;
    let mut cpu = vm.create_vcpu(0).map_err(|error| format!("KVM_CREATE_VCPU: {error}"))?;
    set_first_state(&kvm, &cpu).map_err(|error| format!("setting up the CPU: {error}"))?;
    cpu.set_kvm_immediate_exit(1);
    let flag = ExitFlag(&raw mut cpu.get_kvm_run().immediate_exit);
    catch_kicks();
    Ok(Parts {
        kind: Kind::Kvm,
        machine: Box::new(KvmMachine { cpu }),
        kick: Box::new(move |thread| flag.kick(thread)),
        log: Some(Arc::new(log)),
    })
}

/// 64-bit mode at privilege level 3, by the tables that `Memory::load` made, ports allowed.
fn set_first_state(kvm: &Kvm, cpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    const PROTECTED: u64 = 1 | 1 << 4;
    const PAGING: u64 = 1 << 31;
    const PHYSICAL_ADDRESS_EXTENSION: u64 = 1 << 5;
    const LONG_MODE: u64 = 1 << 8 | 1 << 10;
    const ALL_MAY_USE_PORTS: u64 = 3 << 12;
    let data = kvm_segment {
        limit: u32::MAX,
        selector: 0x2b,
        type_: 3,
        present: 1,
        dpl: 3,
        db: 1,
        s: 1,
        g: 1,
        ..Default::default()
    };
    cpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut segments = cpu.get_sregs()?;
    segments.cs = kvm_segment { selector: 0x33, type_: 11, db: 0, l: 1, ..data };
    (segments.ds, segments.es, segments.fs, segments.gs, segments.ss) =
        (data, data, data, data, data);
    segments.cr0 |= PROTECTED | PAGING;
    segments.cr3 = TABLES_ADDRESS as u64;
    segments.cr4 |= PHYSICAL_ADDRESS_EXTENSION;
    segments.efer |= LONG_MODE;
    cpu.set_sregs(&segments)?;
    let (rip, rflags) = (CODE_ADDRESS as u64, 2 | ALL_MAY_USE_PORTS);
    cpu.set_regs(&kvm_regs { rip, rflags, ..Default::default() })
}

impl Machine for KvmMachine {
    fn run(&mut self, pace: &mut dyn FnMut() -> u32) -> Result<(), String> {
        match self.cpu.run() {
            Ok(VcpuExit::IoIn(PACER_PORT, answer)) if answer.len() == 4 => {
                answer.copy_from_slice(&pace().to_le_bytes());
                Ok(())
            }
            Ok(exit) => Err(format!("unexpected KVM exit {exit:?}")),
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => Ok(()),
            Err(error) => Err(format!("KVM_RUN: {error}")),
        }
    }

    /// An answered question reaches the CPU's registers only when it is entered once more.
    fn settle(&mut self) -> Result<(), String> {
        self.cpu.set_kvm_immediate_exit(1);
        match self.cpu.run() {
            Err(error) if error.errno() == libc::EINTR => Ok(()),
            other => Err(format!("KVM_RUN did not come back at once: {other:?}")),
        }
    }

    fn allow(&mut self) {
        self.cpu.set_kvm_immediate_exit(0);
    }

    fn save(&mut self) -> Result<Vec<u8>, String> {
        let state =
            self.read_state().map_err(|error| format!("reading the CPU's state: {error}"))?;
        // SAFETY: plain numbers, and no padding between the fields.
        let bytes = unsafe {
            std::slice::from_raw_parts((&raw const state).cast::<u8>(), size_of::<CpuState>())
        };
        Ok(bytes.to_vec())
    }

    fn load(&mut self, bytes: &[u8]) -> Result<(), String> {
        let wanted = size_of::<CpuState>();
        if bytes.len() != wanted {
            return Err(format!("CPU state is {} bytes, not {wanted}", bytes.len()));
        }
        // SAFETY: the length is right, and any bytes are a state; the kernel judges it.
        let state = unsafe { bytes.as_ptr().cast::<CpuState>().read_unaligned() };
        self.write_state(&state).map_err(|error| format!("setting the CPU's state: {error}"))
    }
}

impl KvmMachine {
    fn read_state(&self) -> Result<CpuState, kvm_ioctls::Error> {
        let mut msrs = time_stamp_counter(0);
        self.cpu.get_msrs(&mut msrs)?;
        Ok(CpuState {
            registers: self.cpu.get_regs()?,
            segments: self.cpu.get_sregs()?,
            fpu: self.cpu.get_fpu()?,
            events: self.cpu.get_vcpu_events()?,
            time_stamp_counter: msrs.as_slice()[0].data,
        })
    }

    fn write_state(&self, state: &CpuState) -> Result<(), kvm_ioctls::Error> {
        self.cpu.set_sregs(&state.segments)?;
        self.cpu.set_regs(&state.registers)?;
        self.cpu.set_fpu(&state.fpu)?;
        self.cpu.set_vcpu_events(&state.events)?;
        self.cpu.set_msrs(&time_stamp_counter(state.time_stamp_counter)).map(|_| ())
    }
}

fn time_stamp_counter(data: u64) -> Msrs {
    let entry = kvm_msr_entry { index: MSR_TSC, data, ..Default::default() };
    Msrs::from_entries(&[entry]).unwrap_or_else(|_| unreachable!("one entry always fits"))
}

impl ExitFlag {
    /// The flag stops a CPU that is about to enter, the signal one that is inside.
    fn kick(&self, thread: libc::pthread_t) {
        // SAFETY: the byte is mapped while the machine lives, and the guest owns both.
        unsafe { AtomicU8::from_ptr(self.0) }.store(1, Ordering::SeqCst);
        // SAFETY: the CPU's thread runs until the guest is dropped.
        unsafe { libc::pthread_kill(thread, KICK_SIGNAL) };
    }
}

impl KvmLog {
    fn set(&self, flags: u32) -> Result<(), String> {
        let region = kvm_userspace_memory_region {
            slot: 0,
            flags,
            guest_phys_addr: 0,
            memory_size: self.memory.length_bytes as u64,
            userspace_addr: self.memory.start as u64,
        };
        // SAFETY: the guest keeps its memory mapped as long as its virtual machine lives.
        let result = unsafe { self.vm.set_user_memory_region(region) };
        result.map_err(|error| format!("KVM_SET_USER_MEMORY_REGION: {error}"))
    }
}

impl DirtyLog for KvmLog {
    fn start(&self) -> Result<(), GuestError> {
        crate::guest::call("start_dirty_log", self.set(KVM_MEM_LOG_DIRTY_PAGES))
    }

    /// KVM's log has the shape that the library wants, and begins anew with each call.
    fn fetch(&self, _region: usize, log: &mut [u64]) -> Result<(), GuestError> {
        let dirty = self.vm.get_dirty_log(0, self.memory.length_bytes);
        let dirty = dirty.map_err(|error| GuestError::new("fetch_dirty", error))?;
        for (into, from) in log.iter_mut().zip(dirty) {
            *into |= from;
        }
        Ok(())
    }

    fn stop(&self) -> Result<(), GuestError> {
        crate::guest::call("stop_dirty_log", self.set(0))
    }
}

extern "C" fn on_kick(_signal: libc::c_int) {} // its arrival is all that counts

fn catch_kicks() {
    // SAFETY: a zeroed sigaction is a valid one; no SA_RESTART, for KVM_RUN must return. The
    // handler does nothing.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_kick as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(KICK_SIGNAL, &action, std::ptr::null_mut());
    }
}

/// Every signal but the kick is for other threads.
pub fn accept_only_kicks() {
    // SAFETY: changes the calling thread's mask, from a set that is filled first.
    unsafe {
        let mut others: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut others);
        libc::sigdelset(&mut others, KICK_SIGNAL);
        libc::pthread_sigmask(libc::SIG_SETMASK, &others, std::ptr::null_mut());
    }
}
