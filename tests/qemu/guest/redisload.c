/* A guest with a real service under load: redis-server, and a client that fills it, rewrites values
 * at a rate, and proves every second that what it reads is what it wrote.
 *
 * It is the guest's first process. mib is how much text it stores, rate_mib what it rewrites in a
 * second, and each tick reads one value in share. A value follows from its key and version, so the
 * client keeps a version for each key and nothing else. */
#include "load.h"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    VALUE_BYTES = 1024,
    VALUES_PER_MIB = (1 << 20) / VALUE_BYTES,
    PIPELINE = 32,
    SLICES_PER_S = 50,
    REPORTS_PER_TICK = 8,
    REPLY_BYTES = PIPELINE * (VALUE_BYTES + 64),
};

static const char SOCKET[] = "/redis.sock";

struct store {
    int socket;
    uint64_t count;
    uint32_t *versions;
    uint64_t next_to_verify;
};

static void die(const char *what) {
    printf("FAILED %s\n", what);
    exit(1);
}

static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
    value = (value ^ value >> 27) * 0x94d049bb133111eb;
    return value ^ value >> 31;
}

/* A record as services keep them: names that repeat, values that differ. */
static void make_value(uint64_t key, uint32_t version, char *value) {
    static const char *const words[16] = {"order", "paid",  "open",   "berlin", "oslo",  "madrid",
                                          "small", "large", "red",    "green",  "train", "ship",
                                          "alpha", "beta",  "stable", "closed"};
    uint64_t state = mix(key * 0x9e3779b97f4a7c15 + version);
    int length = snprintf(value, VALUE_BYTES, "{\"id\":%llu,\"version\":%u", (unsigned long long)key,
                          version);
    while (length < VALUE_BYTES - 64) {
        state = mix(state + 0x9e3779b97f4a7c15);
        length += snprintf(value + length, VALUE_BYTES - (size_t)length,
                           ",\"%s_%s\":\"%s %08x\"", words[state & 15], words[state >> 4 & 15],
                           words[state >> 8 & 15], (unsigned)(state >> 32));
    }
    memset(value + length, ' ', VALUE_BYTES - (size_t)length);
    value[VALUE_BYTES - 1] = '}';
}

static void start_server(void) {
    if (fork() == 0) {
        char *const arguments[] = {"redis-server", "--port",       "0",
                                   "--unixsocket", (char *)SOCKET, "--save",
                                   "",             "--appendonly", "no",
                                   "--logfile",    "/redis.log",   NULL};
        execv("/usr/bin/redis-server", arguments);
        _exit(127);
    }
}

static int connect_server(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, SOCKET, sizeof SOCKET);
    for (int tries = 0; tries < 600; tries++) {
        int made = socket(AF_UNIX, SOCK_STREAM, 0);
        if (made >= 0 && connect(made, (struct sockaddr *)&address, sizeof address) == 0) {
            return made;
        }
        close(made);
        usleep(100000);
    }
    die("no redis-server");
    return -1;
}

static void send_all(int to, const char *bytes, size_t length) {
    while (length > 0) {
        ssize_t sent = write(to, bytes, length);
        if (sent <= 0) {
            die("redis-server took no more");
        }
        bytes += sent;
        length -= (size_t)sent;
    }
}

static void read_all(int from, char *bytes, size_t length) {
    while (length > 0) {
        ssize_t came = read(from, bytes, length);
        if (came <= 0) {
            die("redis-server gave no answer");
        }
        bytes += came;
        length -= (size_t)came;
    }
}

static int key_length(uint64_t key) {
    return snprintf(NULL, 0, "key:%llu", (unsigned long long)key);
}

/* Writes so many keys' next versions, a pipeline at a time. */
static void write_keys(struct store *store, const uint64_t *keys, int count) {
    static char request[PIPELINE * (VALUE_BYTES + 96)];
    char value[VALUE_BYTES], replies[PIPELINE * 5];
    size_t length = 0;
    for (int i = 0; i < count; i++) {
        make_value(keys[i], ++store->versions[keys[i]], value);
        length += (size_t)sprintf(request + length, "*3\r\n$3\r\nSET\r\n$%d\r\nkey:%llu\r\n$%d\r\n",
                                  key_length(keys[i]), (unsigned long long)keys[i], VALUE_BYTES);
        memcpy(request + length, value, VALUE_BYTES);
        memcpy(request + length + VALUE_BYTES, "\r\n", 2);
        length += VALUE_BYTES + 2;
    }
    send_all(store->socket, request, length);
    read_all(store->socket, replies, (size_t)count * 5);
    for (int i = 0; i < count; i++) {
        if (memcmp(replies + i * 5, "+OK\r\n", 5) != 0) {
            die("redis-server refused a value");
        }
    }
}

static void fill(struct store *store) {
    uint64_t keys[PIPELINE];
    for (uint64_t key = 0; key < store->count; key += PIPELINE) {
        for (int i = 0; i < PIPELINE; i++) {
            keys[i] = key + (uint64_t)i;
        }
        write_keys(store, keys, PIPELINE);
    }
}

static void rewrite(struct store *store, uint64_t values) {
    static uint64_t state = 0x9e3779b97f4a7c15;
    uint64_t keys[PIPELINE];
    for (uint64_t done = 0; done < values; done += PIPELINE) {
        for (int i = 0; i < PIPELINE; i++) {
            state = mix(state + 0x9e3779b97f4a7c15);
            keys[i] = state % store->count;
        }
        write_keys(store, keys, PIPELINE);
    }
}

/* Reads the next values in turn; returns how many are not what was written. */
static uint64_t verify(struct store *store, uint64_t values) {
    static char reply[REPLY_BYTES];
    char expected[VALUE_BYTES], request[96], head[16];
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < values; i++) {
        uint64_t key = store->next_to_verify++ % store->count;
        int length = sprintf(request, "*2\r\n$3\r\nGET\r\n$%d\r\nkey:%llu\r\n", key_length(key),
                             (unsigned long long)key);
        size_t before = (size_t)sprintf(head, "$%d\r\n", VALUE_BYTES);
        send_all(store->socket, request, (size_t)length);
        read_all(store->socket, reply, before);
        if (memcmp(reply, head, before) != 0) {
            die("redis-server has lost a key");
        }
        read_all(store->socket, reply, VALUE_BYTES + 2);
        make_value(key, store->versions[key], expected);
        if (memcmp(reply, expected, VALUE_BYTES) != 0 && wrong++ < REPORTS_PER_TICK) {
            printf("CORRUPT key=%llu version=%u\n", (unsigned long long)key, store->versions[key]);
        }
    }
    return wrong;
}

static void run(struct store *store, uint64_t writes_per_s, uint64_t share) {
    uint64_t next_ms = now_ms();
    for (uint64_t tick = 1;; tick++) {
        for (int slice = 0; slice < SLICES_PER_S; slice++) {
            rewrite(store, writes_per_s / SLICES_PER_S);
            sleep_until_slice(&next_ms, SLICES_PER_S);
        }
        uint64_t values = (store->count + share - 1) / share;
        uint64_t wrong = verify(store, values);
        printf("tick %llu checksum=%s values=%llu\n", (unsigned long long)tick,
               wrong ? "BAD" : "OK", (unsigned long long)values);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    uint64_t share = number("share", 64);
    struct store store = {.count = number("mib", 1) * VALUES_PER_MIB};
    store.versions = calloc(store.count, sizeof *store.versions);
    if (store.versions == NULL) {
        die("no memory");
    }
    start_server();
    store.socket = connect_server();
    fill(&store);
    printf("ready mode=redis values=%llu\n", (unsigned long long)store.count);
    run(&store, number("rate_mib", 0) * VALUES_PER_MIB, share ? share : 1);
}
