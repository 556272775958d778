/* Proofs on a snapshot, and of a paused guest; see verify.h. */
#define _GNU_SOURCE
#include "verify.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void fail(struct proof *proof, const char *text)
{
    proof->holds = false;
    snprintf(proof->text, sizeof(proof->text), "%s", text);
}

/* In the child: the snapshot is its memory. It must not keep the parent's sockets open. */
static void prove_in_child(struct guest *guest, int result_fd)
{
    struct proof proof;
    if (dup2(result_fd, 0) < 0 || close_range(1, ~0u, 0) != 0)
        _exit(1);
    program_prove(guest_memory(guest), guest_memory_bytes(guest), &proof);
    _exit(write(0, &proof, sizeof(proof)) == (ssize_t)sizeof(proof) ? 0 : 1);
}

static bool begin_on_snapshot(struct guest *guest, struct verification *verification)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    int pid = fork();
    if (pid == 0)
        prove_in_child(guest, ends[1]);
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return false;
    }
    verification->pid = pid;
    verification->fd = ends[0];
    return true;
}

void verify_arrival(struct guest *guest, enum verify how, struct verification *verification)
{
    struct guest_counters saved = guest_loaded_counters(guest), now = guest_counters(guest);
    memset(verification, 0, sizeof(*verification));
    struct proof *proof = &verification->proof;
    proof->holds = true;
    proof->counter = now.writes;
    proof->first_bad_page = -1;
    if (saved.writes != now.writes || saved.ticks != now.ticks) {
        proof->holds = false;
        snprintf(proof->text, sizeof(proof->text),
                 "stopped at write %" PRIu64 ", tick %" PRIu32 "; memory says %" PRIu64 ", %" PRIu32,
                 saved.writes, saved.ticks, now.writes, now.ticks);
        return;
    }
    if (how == VERIFY_OFF || (how == VERIFY_SNAPSHOT && begin_on_snapshot(guest, verification)))
        return;
    program_prove(guest_memory(guest), guest_memory_bytes(guest), proof);
}

const struct proof *verify_result(struct verification *verification)
{
    struct proof *proof = &verification->proof;
    if (verification->pid == 0)
        return proof;
    size_t done = 0;
    while (done < sizeof(*proof)) {
        ssize_t count = read(verification->fd, (char *)proof + done, sizeof(*proof) - done);
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            break;
        done += (size_t)count;
    }
    if (done < sizeof(*proof))
        fail(proof, "the process that checks the snapshot died");
    close(verification->fd);
    while (waitpid(verification->pid, NULL, 0) < 0 && errno == EINTR)
        continue;
    verification->pid = 0;
    return proof;
}

int verify_running(struct guest *guest, struct proof *proof)
{
    int result = guest_hold(guest);
    if (result == 0)
        program_prove(guest_memory(guest), guest_memory_bytes(guest), proof);
    guest_release(guest);
    return result;
}
