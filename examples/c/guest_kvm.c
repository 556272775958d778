/* The guest on /dev/kvm: one slot of memory with KVM's dirty log, one virtual CPU. */
#include "guest_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PACER_PORT = 0x10, MSR_TSC = 0x10 };

/* What migrates of a virtual CPU. The kernel's structs are its ABI, the same on every x86-64. */
struct cpu_state {
    struct kvm_regs registers;
    struct kvm_sregs segments;
    struct kvm_fpu fpu;
    struct kvm_vcpu_events events;
    uint64_t time_stamp_counter;
};

static int set_memory(struct guest *guest, uint32_t flags)
{
    struct kvm_userspace_memory_region region = {
        .slot = 0,
        .flags = flags,
        .guest_phys_addr = 0,
        .memory_size = guest->memory_bytes,
        .userspace_addr = (uintptr_t)guest->memory,
    };
    if (ioctl(guest->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) != 0)
        return guest_fail(guest, errno, "KVM_SET_USER_MEMORY_REGION: %s", strerror(errno));
    return 0;
}

/* What the guest sees of the processor: all that this host can give. */
static int set_cpuid(struct guest *guest, int kvm)
{
    enum { MAX_ENTRIES = 256 };
    struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + MAX_ENTRIES * sizeof(list->entries[0]));
    if (list == NULL)
        return guest_fail(guest, ENOMEM, "out of memory");
    list->nent = MAX_ENTRIES;
    int result = 0;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, list) != 0 ||
        ioctl(guest->cpu_fd, KVM_SET_CPUID2, list) != 0)
        result = guest_fail(guest, errno, "KVM_SET_CPUID2: %s", strerror(errno));
    free(list);
    return result;
}

/* 64-bit mode at privilege level 3, by the tables that program_load made, ports allowed. */
static int set_first_registers(struct guest *guest)
{
    enum { PROTECTED = 1 << 0, EXTENSION_TYPE = 1 << 4, PHYSICAL_ADDRESS_EXTENSION = 1 << 5,
           LONG_MODE = 1 << 8, LONG_MODE_ACTIVE = 1 << 10, ALL_MAY_USE_PORTS = 3 << 12 };
    const uint64_t paging = UINT64_C(1) << 31;
    struct kvm_regs registers = {.rip = CODE_ADDRESS, .rflags = 2 | ALL_MAY_USE_PORTS};
    struct kvm_sregs segments;
    struct kvm_segment flat = {
        .base = 0, .limit = 0xffffffff, .selector = 0x2b, .type = 3, /* data, writable, accessed */
        .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1,
    };
    if (ioctl(guest->cpu_fd, KVM_GET_SREGS, &segments) != 0)
        return guest_fail(guest, errno, "KVM_GET_SREGS: %s", strerror(errno));
    segments.ds = segments.es = segments.fs = segments.gs = segments.ss = flat;
    flat.selector = 0x33;
    flat.type = 11; /* code, readable, accessed */
    flat.db = 0;
    flat.l = 1;
    segments.cs = flat;
    segments.cr0 |= PROTECTED | EXTENSION_TYPE | paging;
    segments.cr3 = TABLES_ADDRESS;
    segments.cr4 |= PHYSICAL_ADDRESS_EXTENSION;
    segments.efer |= LONG_MODE | LONG_MODE_ACTIVE;
    if (ioctl(guest->cpu_fd, KVM_SET_SREGS, &segments) != 0)
        return guest_fail(guest, errno, "KVM_SET_SREGS: %s", strerror(errno));
    if (ioctl(guest->cpu_fd, KVM_SET_REGS, &registers) != 0)
        return guest_fail(guest, errno, "KVM_SET_REGS: %s", strerror(errno));
    return 0;
}

static int open_vm(struct guest *guest, int kvm)
{
    int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
    if (version != KVM_API_VERSION)
        return guest_fail(guest, ENOTSUP, "KVM_GET_API_VERSION says %d, not %d", version,
                          KVM_API_VERSION);
    if (ioctl(kvm, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT) <= 0)
        return guest_fail(guest, ENOTSUP, "KVM lacks KVM_CAP_IMMEDIATE_EXIT");
    guest->vm_fd = ioctl(kvm, KVM_CREATE_VM, 0);
    if (guest->vm_fd < 0)
        return guest_fail(guest, errno, "KVM_CREATE_VM: %s", strerror(errno));
    /* Pages that Intel processors need to themselves; above all memory, below 4 GiB. */
    uint64_t identity_map = 0xfffbc000;
    ioctl(guest->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
    ioctl(guest->vm_fd, KVM_SET_TSS_ADDR, 0xfffbd000);
    if (set_memory(guest, 0) != 0)
        return -EIO;
    guest->cpu_fd = ioctl(guest->vm_fd, KVM_CREATE_VCPU, 0);
    if (guest->cpu_fd < 0)
        return guest_fail(guest, errno, "KVM_CREATE_VCPU: %s", strerror(errno));
    int run_bytes = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    void *run = mmap(NULL, run_bytes > 0 ? (size_t)run_bytes : 0, PROT_READ | PROT_WRITE,
                     MAP_SHARED, guest->cpu_fd, 0);
    if (run == MAP_FAILED)
        return guest_fail(guest, errno, "mapping the virtual CPU: %s", strerror(errno));
    guest->run = run;
    guest->run_bytes = (size_t)run_bytes;
    guest->run->immediate_exit = 1;
    int result = set_cpuid(guest, kvm);
    return result != 0 ? result : set_first_registers(guest);
}

static int kvm_open(struct guest *guest)
{
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        return guest_fail(guest, errno, "/dev/kvm: %s", strerror(errno));
    int result = open_vm(guest, kvm);
    close(kvm);
    return result;
}

static void kvm_close(struct guest *guest)
{
    if (guest->run != NULL)
        munmap(guest->run, guest->run_bytes);
    if (guest->cpu_fd >= 0)
        close(guest->cpu_fd);
    if (guest->vm_fd >= 0)
        close(guest->vm_fd);
}

static enum cpu_exit kvm_run(struct guest *guest)
{
    if (ioctl(guest->cpu_fd, KVM_RUN, 0) != 0) {
        if (errno == EINTR || errno == EAGAIN)
            return CPU_KICKED;
        guest_fail(guest, errno, "KVM_RUN: %s", strerror(errno));
        return CPU_FAILED;
    }
    const struct kvm_run *run = guest->run;
    if (run->exit_reason == KVM_EXIT_IO && run->io.port == PACER_PORT &&
        run->io.direction == KVM_EXIT_IO_IN && run->io.size == 4)
        return CPU_ASKS;
    struct kvm_regs registers = {0};
    ioctl(guest->cpu_fd, KVM_GET_REGS, &registers);
    guest_fail(guest, EIO, "unexpected KVM exit %u at instruction 0x%llx", run->exit_reason,
               registers.rip);
    return CPU_FAILED;
}

static void kvm_answer(struct guest *guest, uint32_t pages)
{
    memcpy((uint8_t *)guest->run + guest->run->io.data_offset, &pages, sizeof(pages));
}

/* An answered question reaches the CPU's registers only when it is entered once more. */
static int kvm_settle(struct guest *guest)
{
    guest->run->immediate_exit = 1;
    if (ioctl(guest->cpu_fd, KVM_RUN, 0) == 0 || errno != EINTR)
        return guest_fail(guest, EIO, "KVM_RUN did not come back at once");
    return 0;
}

/* The flag stops a CPU that is about to enter, the signal one that is inside. */
static void kvm_kick(struct guest *guest)
{
    __atomic_store_n(&guest->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pthread_kill(guest->cpu, guest_kick_signal());
}

static void kvm_allow(struct guest *guest)
{
    __atomic_store_n(&guest->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}


static int kvm_save(struct guest *guest, uint8_t *into, size_t room, size_t *length)
{
    struct cpu_state state;
    _Alignas(struct kvm_msrs) uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    struct kvm_msrs *msrs = (struct kvm_msrs *)(void *)bytes;
    memset(&state, 0, sizeof(state));
    memset(bytes, 0, sizeof(bytes));
    msrs->nmsrs = 1;
    msrs->entries[0].index = MSR_TSC;
    if (room < sizeof(state))
        return guest_fail(guest, ENOSPC, "CPU state needs %zu bytes, not %zu", sizeof(state), room);
    if (ioctl(guest->cpu_fd, KVM_GET_REGS, &state.registers) != 0 ||
        ioctl(guest->cpu_fd, KVM_GET_SREGS, &state.segments) != 0 ||
        ioctl(guest->cpu_fd, KVM_GET_FPU, &state.fpu) != 0 ||
        ioctl(guest->cpu_fd, KVM_GET_VCPU_EVENTS, &state.events) != 0 ||
        ioctl(guest->cpu_fd, KVM_GET_MSRS, msrs) != 1)
        return guest_fail(guest, EIO, "reading the CPU's state: %s", strerror(errno));
    state.time_stamp_counter = msrs->entries[0].data;
    memcpy(into, &state, sizeof(state));
    *length = sizeof(state);
    return 0;
}

static int kvm_load(struct guest *guest, const uint8_t *from, size_t length)
{
    struct cpu_state state;
    _Alignas(struct kvm_msrs) uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
    struct kvm_msrs *msrs = (struct kvm_msrs *)(void *)bytes;
    if (length != sizeof(state))
        return guest_fail(guest, EINVAL, "CPU state is %zu bytes, not %zu", length, sizeof(state));
    memcpy(&state, from, sizeof(state));
    memset(bytes, 0, sizeof(bytes));
    msrs->nmsrs = 1;
    msrs->entries[0].index = MSR_TSC;
    msrs->entries[0].data = state.time_stamp_counter;
    if (ioctl(guest->cpu_fd, KVM_SET_SREGS, &state.segments) != 0 ||
        ioctl(guest->cpu_fd, KVM_SET_REGS, &state.registers) != 0 ||
        ioctl(guest->cpu_fd, KVM_SET_FPU, &state.fpu) != 0 ||
        ioctl(guest->cpu_fd, KVM_SET_VCPU_EVENTS, &state.events) != 0 ||
        ioctl(guest->cpu_fd, KVM_SET_MSRS, msrs) != 1)
        return guest_fail(guest, EIO, "setting the CPU's state: %s", strerror(errno));
    return 0;
}

static int kvm_set_dirty_log(struct guest *guest, bool on)
{
    return set_memory(guest, on ? KVM_MEM_LOG_DIRTY_PAGES : 0);
}

/* KVM's log has the shape that the library wants, and begins anew with each call. */
static int kvm_fetch_dirty(struct guest *guest, uint64_t *log, size_t words)
{
    struct kvm_dirty_log request = {.slot = 0, .dirty_bitmap = log};
    if (words * 64 < guest->memory_bytes / PAGE_BYTES)
        return guest_fail(guest, EINVAL, "a log of %zu words is too short", words);
    if (ioctl(guest->vm_fd, KVM_GET_DIRTY_LOG, &request) != 0)
        return guest_fail(guest, errno, "KVM_GET_DIRTY_LOG: %s", strerror(errno));
    return 0;
}

const struct guest_backend guest_backend_kvm = {
    .kind = GUEST_KVM,
    .open = kvm_open,
    .close = kvm_close,
    .run = kvm_run,
    .answer = kvm_answer,
    .settle = kvm_settle,
    .kick = kvm_kick,
    .allow = kvm_allow,
    .save = kvm_save,
    .load = kvm_load,
    .set_dirty_log = kvm_set_dirty_log,
    .fetch_dirty = kvm_fetch_dirty,
};
