/* The guest's program as a thread of this process; writes are tracked by the kernel. */
#include "guest_internal.h"

#include <errno.h>

static int thread_open(struct guest *guest)
{
    guest->is_kicked = true;
    return 0;
}

static void thread_close(struct guest *guest)
{
    (void)guest;
}

/* Writes what was granted, looking after each page whether it has to stop. */
static enum cpu_exit thread_run(struct guest *guest)
{
    while (guest->granted != 0) {
        if (__atomic_load_n(&guest->is_kicked, __ATOMIC_ACQUIRE))
            return CPU_KICKED;
        program_step(guest->memory);
        guest->granted--;
    }
    if (__atomic_load_n(&guest->is_kicked, __ATOMIC_ACQUIRE))
        return CPU_KICKED;
    *(volatile uint32_t *)&program_control(guest->memory)->ticks += 1;
    return CPU_ASKS;
}

static void thread_answer(struct guest *guest, uint32_t pages)
{
    guest->granted = pages;
}

static int thread_settle(struct guest *guest)
{
    guest->granted = 0; /* the guest asks again when it goes on, wherever that is */
    return 0;
}

static void thread_kick(struct guest *guest)
{
    __atomic_store_n(&guest->is_kicked, true, __ATOMIC_RELEASE);
}

static void thread_allow(struct guest *guest)
{
    __atomic_store_n(&guest->is_kicked, false, __ATOMIC_RELEASE);
}

/* All that this CPU has is in memory. */
static int thread_save(struct guest *guest, uint8_t *into, size_t room, size_t *length)
{
    (void)guest, (void)into, (void)room;
    *length = 0;
    return 0;
}

static int thread_load(struct guest *guest, const uint8_t *from, size_t length)
{
    (void)from;
    if (length != 0)
        return guest_fail(guest, EINVAL, "a thread has no CPU state, %zu bytes came", length);
    return 0;
}

const struct guest_backend guest_backend_thread = {
    .kind = GUEST_THREAD,
    .open = thread_open,
    .close = thread_close,
    .run = thread_run,
    .answer = thread_answer,
    .settle = thread_settle,
    .kick = thread_kick,
    .allow = thread_allow,
    .save = thread_save,
    .load = thread_load,
};
