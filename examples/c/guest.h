/*
 * A guest: memory, one virtual CPU, and the six things that a live migration needs of them.
 *
 * What a hypervisor has to bring for libdwcp, in the order in which a migration asks for it:
 *   source:       start_dirty_log, fetch_dirty (often), pause, save, then stop_dirty_log;
 *                 resume if it failed
 *   destination:  load, then resume
 * Two kinds of guest do that here: guest_kvm.c runs the program of ../guest/guest.S on /dev/kvm,
 * with KVM's dirty log; guest_thread.c runs the same program as a thread, where there is no
 * usable /dev/kvm, and leaves the tracking of writes to the kernel, through the library.
 */
#ifndef GUEST_H
#define GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct guest;

enum guest_kind { GUEST_KVM = 1, GUEST_THREAD = 2 };

enum { GUEST_STATE_MAX_BYTES = 8192, GUEST_ERROR_BYTES = 256 };

/*
 * A stopped guest with empty memory; NULL with the reason in `error` if this host cannot run that
 * kind. Functions below return 0, or a negative errno with the reason in guest_error().
 */
struct guest *guest_new(enum guest_kind kind, size_t memory_bytes, char error[GUEST_ERROR_BYTES]);
void guest_free(struct guest *guest);

/* Gives the memory of a guest that left back to the system; it stays mapped and reads as zero. */
void guest_discard(struct guest *guest);

enum guest_kind guest_kind_of(const struct guest *guest);
const char *guest_error(const struct guest *guest);
uint8_t *guest_memory(struct guest *guest);
size_t guest_memory_bytes(const struct guest *guest);

/* Whether the guest logs its writes itself; if not, the kernel has to track its memory. */
bool guest_has_dirty_log(const struct guest *guest);

/* How fast the guest may write once it has filled its memory, and a share of time to hold it. */
void guest_set_dirty_rate(struct guest *guest, uint64_t bytes_per_s);
uint64_t guest_dirty_rate(struct guest *guest);
void guest_throttle(struct guest *guest, uint32_t percent);

/* On return from pause the virtual CPU is out of the guest and nothing writes its memory. */
int guest_resume(struct guest *guest);
int guest_pause(struct guest *guest);
bool guest_is_running(struct guest *guest);

/* Keeps the guest still for whoever looks at it, whether it is paused or not. A migration pauses and
   resumes when it likes: what was paused meanwhile is so after the release. */
int guest_hold(struct guest *guest);
void guest_release(struct guest *guest);

/* The state of virtual CPU and devices, of a paused guest. */
int guest_save(struct guest *guest, uint8_t state[GUEST_STATE_MAX_BYTES], size_t *length);
int guest_load(struct guest *guest, const uint8_t *state, size_t length);

/* What the guest's counters were when the state was saved; of a guest that was loaded. */
struct guest_counters {
    uint64_t writes;
    uint32_t ticks;
};
struct guest_counters guest_loaded_counters(const struct guest *guest);
struct guest_counters guest_counters(struct guest *guest);

/* One bit a page, lowest first, of the pages written since the last call. */
int guest_start_dirty_log(struct guest *guest);
int guest_fetch_dirty(struct guest *guest, uint64_t *log, size_t words);
int guest_stop_dirty_log(struct guest *guest);

#ifdef __cplusplus
}
#endif
#endif
