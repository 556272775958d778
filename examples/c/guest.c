/* What all kinds of guest share: the CPU's thread, the pacer device, and the state's format. */
#include "guest_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static const uint64_t SLICE_NS = 5 * 1000 * 1000;     /* the pacer gives credit so often */
static const uint64_t MAX_WAIT_NS = 100 * 1000 * 1000;
enum { MAX_BATCH_PAGES = 256 };

/* Device state: this header, then the CPU's own state. Little-endian, as x86 is. */
struct state_header {
    uint32_t magic, version, kind, cpu_bytes;
    uint64_t memory_bytes, bytes_per_s, counter;
    uint32_t ticks, reserved;
};
static const uint32_t STATE_MAGIC = 0x53435744; /* "DWCS" */
enum { STATE_VERSION = 1 };

int guest_fail(struct guest *guest, int errno_value, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(guest->error, sizeof(guest->error), format, arguments);
    va_end(arguments);
    return -errno_value;
}

int guest_kick_signal(void)
{
    return SIGUSR1;
}

static void on_kick(int signal)
{
    (void)signal; /* its arrival is all that counts */
}

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static bool may_run(const struct guest *guest)
{
    return guest->wants_run && !guest->is_held && !guest->wants_exit;
}

/* Waits, lock held, unless the guest is to stop; false if it is. */
static bool wait_unless_stopped(struct guest *guest, uint64_t until_ns)
{
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    while (may_run(guest) && now_ns() < until_ns)
        pthread_cond_timedwait(&guest->changed, &guest->lock, &until);
    return may_run(guest);
}

static uint32_t pages_to_fill(struct guest *guest)
{
    const struct control *control = program_control(guest->memory);
    uint64_t left = control->data_pages - control->counter;
    if (control->counter >= control->data_pages)
        return 0;
    return left < MAX_BATCH_PAGES ? (uint32_t)left : MAX_BATCH_PAGES;
}

/* Whole pages of the credit that has come in since the last time. */
static uint32_t take_credit(struct guest *guest)
{
    struct pacer *pacer = &guest->pacer;
    uint64_t now = now_ns();
    double share = (100 - guest->throttle_percent) / 100.0;
    double pages_per_s = (double)pacer->bytes_per_s / PAGE_BYTES;
    pacer->credit_pages += (double)(now - pacer->last_ns) / 1e9 * share * pages_per_s;
    pacer->last_ns = now;
    if (pacer->credit_pages > pages_per_s / 10 + 1)
        pacer->credit_pages = pages_per_s / 10 + 1; /* what it missed for long is forgotten */
    uint32_t pages = pacer->credit_pages > MAX_BATCH_PAGES ? MAX_BATCH_PAGES
                                                           : (uint32_t)pacer->credit_pages;
    pacer->credit_pages -= pages;
    return pages;
}

/* A throttled CPU stands still for its share of the time, counted from what it just ran. */
static bool hold_back(struct guest *guest)
{
    uint32_t percent = guest->throttle_percent;
    if (percent == 0 || guest->pacer.left_ns == 0)
        return true;
    uint64_t now = now_ns();
    uint64_t hold_ns = (now - guest->pacer.left_ns) * percent / (100 - percent);
    return wait_unless_stopped(guest, now + (hold_ns < MAX_WAIT_NS ? hold_ns : MAX_WAIT_NS));
}

/* How many pages the guest may write now; comes back when it is time, or when it has to stop. */
static uint32_t pace(struct guest *guest)
{
    uint32_t pages = 0;
    pthread_mutex_lock(&guest->lock);
    if (hold_back(guest) && (pages = pages_to_fill(guest)) == 0 &&
        (pages = take_credit(guest)) == 0) {
        wait_unless_stopped(guest, now_ns() + SLICE_NS);
        pages = take_credit(guest);
    }
    guest->pacer.left_ns = now_ns();
    pthread_mutex_unlock(&guest->lock);
    return pages;
}

/* Stands still, lock held, until the guest may run; false: for ever. */
static bool park(struct guest *guest)
{
    if (guest->backend->settle(guest) != 0)
        guest->has_failed = true;
    guest->is_parked = true;
    pthread_cond_broadcast(&guest->changed);
    while ((!may_run(guest) || guest->has_failed) && !guest->wants_exit)
        pthread_cond_wait(&guest->changed, &guest->lock);
    guest->is_parked = false;
    guest->pacer.last_ns = now_ns();
    guest->pacer.left_ns = 0;
    guest->pacer.credit_pages = 0;
    guest->backend->allow(guest);
    return !guest->wants_exit;
}

static void *cpu_main(void *argument)
{
    struct guest *guest = argument;
    sigset_t others;
    sigfillset(&others); /* every signal but the kick is for other threads */
    sigdelset(&others, guest_kick_signal());
    pthread_sigmask(SIG_SETMASK, &others, NULL);
    for (;;) {
        pthread_mutex_lock(&guest->lock);
        bool goes_on = may_run(guest) || park(guest);
        pthread_mutex_unlock(&guest->lock);
        if (!goes_on)
            return NULL;
        switch (guest->backend->run(guest)) {
        case CPU_ASKS:
            guest->backend->answer(guest, pace(guest));
            break;
        case CPU_KICKED:
            break;
        case CPU_FAILED:
            pthread_mutex_lock(&guest->lock);
            guest->has_failed = true;
            guest->wants_run = false;
            pthread_mutex_unlock(&guest->lock);
        }
    }
}

static int start_cpu(struct guest *guest)
{
    struct sigaction action = {.sa_handler = on_kick}; /* no SA_RESTART: KVM_RUN must return */
    int result;
    sigaction(guest_kick_signal(), &action, NULL);
    result = pthread_create(&guest->cpu, NULL, cpu_main, guest);
    if (result != 0)
        return guest_fail(guest, result, "starting the CPU's thread: %s", strerror(result));
    guest->cpu_started = true;
    pthread_mutex_lock(&guest->lock);
    while (!guest->is_parked)
        pthread_cond_wait(&guest->changed, &guest->lock);
    result = guest->has_failed ? -EIO : 0;
    pthread_mutex_unlock(&guest->lock);
    return result;
}

static void init_lock(struct guest *guest)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&guest->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&guest->lock, NULL);
}

static int open_guest(struct guest *guest)
{
    void *memory = mmap(NULL, guest->memory_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return guest_fail(guest, errno, "%zu bytes of memory: %s", guest->memory_bytes,
                          strerror(errno));
    guest->memory = memory;
    int result = guest->backend->open(guest);
    return result != 0 ? result : start_cpu(guest);
}

struct guest *guest_new(enum guest_kind kind, size_t memory_bytes, char error[GUEST_ERROR_BYTES])
{
    struct guest *guest = calloc(1, sizeof(*guest));
    if (guest == NULL) {
        snprintf(error, GUEST_ERROR_BYTES, "out of memory");
        return NULL;
    }
    guest->backend = kind == GUEST_KVM ? &guest_backend_kvm : &guest_backend_thread;
    guest->memory_bytes = memory_bytes;
    guest->vm_fd = guest->cpu_fd = -1;
    init_lock(guest);
    if (open_guest(guest) == 0)
        return guest;
    memcpy(error, guest->error, GUEST_ERROR_BYTES);
    guest_free(guest);
    return NULL;
}

void guest_free(struct guest *guest)
{
    if (guest == NULL)
        return;
    if (guest->cpu_started) {
        guest_pause(guest);
        pthread_mutex_lock(&guest->lock);
        guest->wants_exit = true;
        pthread_cond_broadcast(&guest->changed);
        pthread_mutex_unlock(&guest->lock);
        pthread_join(guest->cpu, NULL);
    }
    guest->backend->close(guest);
    if (guest->memory != NULL)
        munmap(guest->memory, guest->memory_bytes);
    pthread_cond_destroy(&guest->changed);
    pthread_mutex_destroy(&guest->lock);
    free(guest);
}

void guest_discard(struct guest *guest)
{
    madvise(guest->memory, guest->memory_bytes, MADV_DONTNEED);
}

enum guest_kind guest_kind_of(const struct guest *guest)
{
    return guest->backend->kind;
}

const char *guest_error(const struct guest *guest)
{
    return guest->error;
}

uint8_t *guest_memory(struct guest *guest)
{
    return guest->memory;
}

size_t guest_memory_bytes(const struct guest *guest)
{
    return guest->memory_bytes;
}

bool guest_has_dirty_log(const struct guest *guest)
{
    return guest->backend->set_dirty_log != NULL;
}

void guest_set_dirty_rate(struct guest *guest, uint64_t bytes_per_s)
{
    pthread_mutex_lock(&guest->lock);
    guest->pacer.bytes_per_s = bytes_per_s;
    pthread_mutex_unlock(&guest->lock);
}

uint64_t guest_dirty_rate(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    uint64_t bytes_per_s = guest->pacer.bytes_per_s;
    pthread_mutex_unlock(&guest->lock);
    return bytes_per_s;
}

void guest_throttle(struct guest *guest, uint32_t percent)
{
    pthread_mutex_lock(&guest->lock);
    guest->throttle_percent = percent < 99 ? percent : 99;
    pthread_mutex_unlock(&guest->lock);
}

int guest_resume(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    int result = guest->has_failed ? -EIO : 0;
    guest->wants_run = result == 0;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
    return result;
}

/* Lock held; the guest may not run any more. */
static int await_parked(struct guest *guest)
{
    guest->backend->kick(guest);
    pthread_cond_broadcast(&guest->changed);
    while (!guest->is_parked)
        pthread_cond_wait(&guest->changed, &guest->lock);
    return guest->has_failed ? -EIO : 0;
}

int guest_pause(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    guest->wants_run = false;
    int result = await_parked(guest);
    pthread_mutex_unlock(&guest->lock);
    return result;
}

int guest_hold(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    guest->is_held = true;
    int result = await_parked(guest);
    pthread_mutex_unlock(&guest->lock);
    return result;
}

void guest_release(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    guest->is_held = false;
    pthread_cond_broadcast(&guest->changed);
    pthread_mutex_unlock(&guest->lock);
}

bool guest_is_running(struct guest *guest)
{
    pthread_mutex_lock(&guest->lock);
    bool runs = guest->wants_run;
    pthread_mutex_unlock(&guest->lock);
    return runs;
}

struct guest_counters guest_counters(struct guest *guest)
{
    const struct control *control = program_control(guest->memory);
    struct guest_counters counters = {*(volatile const uint64_t *)&control->counter,
                                      *(volatile const uint32_t *)&control->ticks};
    return counters;
}

struct guest_counters guest_loaded_counters(const struct guest *guest)
{
    return guest->loaded;
}

int guest_save(struct guest *guest, uint8_t state[GUEST_STATE_MAX_BYTES], size_t *length)
{
    struct guest_counters counters = guest_counters(guest);
    struct state_header header = {
        .magic = STATE_MAGIC,
        .version = STATE_VERSION,
        .kind = guest->backend->kind,
        .memory_bytes = guest->memory_bytes,
        .bytes_per_s = guest->pacer.bytes_per_s,
        .counter = counters.writes,
        .ticks = counters.ticks,
    };
    size_t cpu_bytes = 0;
    int result = guest->backend->save(guest, state + sizeof(header),
                                      GUEST_STATE_MAX_BYTES - sizeof(header), &cpu_bytes);
    header.cpu_bytes = (uint32_t)cpu_bytes;
    memcpy(state, &header, sizeof(header));
    *length = sizeof(header) + cpu_bytes;
    return result;
}

int guest_load(struct guest *guest, const uint8_t *state, size_t length)
{
    struct state_header header;
    if (length < sizeof(header))
        return guest_fail(guest, EINVAL, "device state of %zu bytes is cut short", length);
    memcpy(&header, state, sizeof(header));
    if (header.magic != STATE_MAGIC || header.version != STATE_VERSION)
        return guest_fail(guest, EINVAL, "device state is magic %08x version %u, not %08x %u",
                          header.magic, header.version, STATE_MAGIC, STATE_VERSION);
    if (header.kind != (uint32_t)guest->backend->kind)
        return guest_fail(guest, EINVAL, "device state of guest kind %u, this is kind %u",
                          header.kind, guest->backend->kind);
    if (header.memory_bytes != guest->memory_bytes || header.cpu_bytes != length - sizeof(header))
        return guest_fail(guest, EINVAL, "device state says %llu bytes of memory, %u of CPU state",
                          (unsigned long long)header.memory_bytes, header.cpu_bytes);
    guest->loaded.writes = header.counter;
    guest->loaded.ticks = header.ticks;
    guest_set_dirty_rate(guest, header.bytes_per_s);
    return guest->backend->load(guest, state + sizeof(header), header.cpu_bytes);
}

static int set_dirty_log(struct guest *guest, bool on)
{
    if (!guest_has_dirty_log(guest))
        return guest_fail(guest, ENOTSUP, "this kind of guest has no dirty log");
    return guest->backend->set_dirty_log(guest, on);
}

int guest_start_dirty_log(struct guest *guest)
{
    return set_dirty_log(guest, true);
}

int guest_stop_dirty_log(struct guest *guest)
{
    return set_dirty_log(guest, false);
}

int guest_fetch_dirty(struct guest *guest, uint64_t *log, size_t words)
{
    if (!guest_has_dirty_log(guest))
        return guest_fail(guest, ENOTSUP, "this kind of guest has no dirty log");
    return guest->backend->fetch_dirty(guest, log, words);
}
