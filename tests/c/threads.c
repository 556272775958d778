/* Many threads on the same handles, some of which others free. */
#define _GNU_SOURCE
#include "check.h"
#include "guest.h"
#include <unistd.h>

enum { THREADS = 6, ROUNDS = 150 };

static dwcp_node *shared[4];
static int wrong;

static void expect(int so, const char *what, dwcp_status code) {
    if (so) return;
    fprintf(stderr, "%s gave %s\n", what, dwcp_status_name(code));
    __atomic_fetch_add(&wrong, 1, __ATOMIC_ACQ_REL);
}

static int live_or_gone(dwcp_status code) {
    return code == DWCP_OK || code == DWCP_ERR_BAD_HANDLE || code == DWCP_ERR_STOPPED ||
           code == DWCP_ERR_ALREADY_EXISTS || code == DWCP_ERR_NOT_FOUND;
}

static void *hammer(void *argument) {
    unsigned number = *(unsigned *)argument;
    char text[4096];
    for (unsigned round = 0; round < ROUNDS; round++) {
        dwcp_node **slot = &shared[(round + number) % 4];
        dwcp_node *node = __atomic_load_n(slot, __ATOMIC_ACQUIRE);
        dwcp_completion batch[4];
        size_t count = 0;
        int fd = -1;
        dwcp_status code;
        memset(batch, 0, sizeof batch);
        batch[0].struct_size = sizeof batch[0];
        code = dwcp_node_fd(node, &fd);
        expect(live_or_gone(code), "dwcp_node_fd", code);
        code = dwcp_node_reap(node, batch, 4, &count);
        expect(live_or_gone(code) && count <= 4, "dwcp_node_reap", code);
        code = dwcp_node_guests_json(node, text, sizeof text, NULL);
        expect(live_or_gone(code), "dwcp_node_guests_json", code);
        code = dwcp_request_complete(node, round, 0, NULL, 0);
        expect(live_or_gone(code), "dwcp_request_complete", code);
        if (round % 25 == number) {
            dwcp_node *fresh = new_node(number % 2 ? "127.0.0.1:0" : NULL);
            dwcp_node *old = __atomic_exchange_n(slot, fresh, __ATOMIC_ACQ_REL);
            code = dwcp_node_free(old);
            expect(code == DWCP_OK, "dwcp_node_free", code);
            code = dwcp_node_free(old);
            expect(code == DWCP_ERR_BAD_HANDLE || !old, "second dwcp_node_free", code);
        }
    }
    return NULL;
}

static void handles_may_be_freed_while_others_use_them(void) {
    pthread_t threads[THREADS];
    unsigned numbers[THREADS];
    for (unsigned i = 0; i < 4; i++) shared[i] = new_node(NULL);
    for (unsigned i = 0; i < THREADS; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, hammer, &numbers[i]) == 0);
    }
    for (unsigned i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < 4; i++) OK(dwcp_node_free(shared[i]));
    CHECK(wrong == 0);
}

static void *fail_on_this_thread(void *argument) {
    char text[256] = "x";
    int *result = argument;
    *result = dwcp_last_error(text, sizeof text, NULL) == DWCP_OK && text[0] == 0;
    (void)dwcp_node_free((dwcp_node *)(void *)0xbad1);
    return NULL;
}

static void errors_belong_to_their_thread(void) {
    pthread_t thread;
    int was_empty = 0;
    CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_node_free((dwcp_node *)(void *)0xabc1));
    CHECK(pthread_create(&thread, NULL, fail_on_this_thread, &was_empty) == 0);
    pthread_join(thread, NULL);
    CHECK(was_empty && last_error_has("0xabc1"));
}

int main(void) {
    CASE(errors_belong_to_their_thread);
    CASE(handles_may_be_freed_while_others_use_them);
    return REPORT();
}
