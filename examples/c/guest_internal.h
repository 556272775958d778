/* What the kinds of guest share; only guest*.c include this. */
#ifndef GUEST_INTERNAL_H
#define GUEST_INTERNAL_H

#include "guest.h"
#include "program.h"

#include <pthread.h>

struct kvm_run;

/* Why a virtual CPU came back. */
enum cpu_exit { CPU_ASKS, CPU_KICKED, CPU_FAILED };

/* How one kind of guest does it. All but `kick` are called on the CPU's thread, or while parked. */
struct guest_backend {
    enum guest_kind kind;
    int (*open)(struct guest *guest);
    void (*close)(struct guest *guest);
    enum cpu_exit (*run)(struct guest *guest);      /* until it asks for pages, or is kicked */
    void (*answer)(struct guest *guest, uint32_t pages);
    int (*settle)(struct guest *guest);             /* finish what an exit left half done */
    void (*kick)(struct guest *guest);              /* from another thread: come out, and stay out */
    void (*allow)(struct guest *guest);             /* undo a kick */
    int (*save)(struct guest *guest, uint8_t *into, size_t room, size_t *length);
    int (*load)(struct guest *guest, const uint8_t *from, size_t length);
    int (*set_dirty_log)(struct guest *guest, bool on); /* NULL: it has none */
    int (*fetch_dirty)(struct guest *guest, uint64_t *log, size_t words);
};

extern const struct guest_backend guest_backend_kvm, guest_backend_thread;

/* The device that the guest asks how many pages to write. */
struct pacer {
    uint64_t bytes_per_s;
    uint64_t last_ns;   /* when credit was last given */
    uint64_t left_ns;   /* when the guest was last let go on */
    double credit_pages;
};

struct guest {
    const struct guest_backend *backend;
    uint8_t *memory;
    size_t memory_bytes;
    struct pacer pacer;
    struct guest_counters loaded;
    char error[GUEST_ERROR_BYTES];

    pthread_t cpu;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool cpu_started, wants_run, wants_exit; /* under lock */
    bool is_held;                            /* under lock: still, whatever it wants */
    bool is_parked;                          /* under lock: the CPU is settled and waits */
    bool has_failed;                         /* under lock */
    uint32_t throttle_percent;               /* under lock */

    int vm_fd, cpu_fd; /* KVM only */
    struct kvm_run *run;
    size_t run_bytes;

    uint32_t granted; /* thread only */
    bool is_kicked;   /* thread only, atomic */
};

/* Sets guest_error() and returns -errno_value. */
int guest_fail(struct guest *guest, int errno_value, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The signal that takes a virtual CPU's thread out of KVM_RUN. */
int guest_kick_signal(void);

#endif
