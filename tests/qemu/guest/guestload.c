/* The guest's program: fills memory, dirties it at a rate, and proves every second that it is whole.
 *
 * It is the guest's first and only process. The kernel passes what it does not know of its own
 * command line as environment: mode is idle, text or random, mib what it fills, rate_mib what it
 * dirties in a second, and each tick verifies one part in share.
 *
 * It works in many slices a second, because each begins with the system call that makes QEMU's
 * translator log writes anew (see KERNEL_OPTIONS of vm.rs).
 *
 * The sum of each page is kept apart from the page, so a page that arrives damaged, in an older
 * version or not at all disagrees with it, whichever of the two was migrated last. */
#include "load.h"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

enum {
    PAGE_BYTES = 4096,
    PAGE_WORDS = PAGE_BYTES / 8,
    RECORD_BYTES = 256,
    RECORDS = PAGE_BYTES / RECORD_BYTES,
    RECORD_WORDS = RECORD_BYTES / 8,
    PAGES_PER_MIB = (1 << 20) / PAGE_BYTES,
    VOCABULARY = 4096,
    SLOT_BYTES = 16,
    SLICES_PER_S = 100,
    REPORTS_PER_TICK = 8,
};

struct word {
    char text[SLOT_BYTES];
    uint64_t length;
};

struct load {
    uint64_t (*pages)[PAGE_WORDS];
    uint64_t *sums;
    uint64_t count;
    int is_text;
    uint64_t next_to_verify;
};

static struct word vocabulary[VOCABULARY];
static uint64_t random_state = 0x9e3779b97f4a7c15;

static uint64_t next_random(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* Words of two to four syllables with a blank behind each. */
static void make_vocabulary(void) {
    static const char syllables[16][4] = {"an", "be", "con", "der", "ed", "in", "ing", "la",
                                          "mo", "ne", "or", "per", "re", "sta", "ti", "us"};
    for (int i = 0; i < VOCABULARY; i++) {
        struct word *word = &vocabulary[i];
        memset(word->text, ' ', SLOT_BYTES);
        uint64_t bits = next_random() >> 8;
        for (uint64_t left = 2 + bits % 3; left > 0; left--) {
            bits >>= 4;
            const char *syllable = syllables[bits & 15];
            memcpy(word->text + word->length, syllable, strlen(syllable));
            word->length += strlen(syllable);
        }
        word->length++;
    }
}

/* Frequent words are far more frequent, as in text. */
static void write_text(uint64_t *record) {
    char line[RECORD_BYTES + SLOT_BYTES];
    for (uint64_t at = 0; at < RECORD_BYTES;) {
        uint64_t bits = next_random();
        uint64_t rank = (bits & 4095) * (bits >> 12 & 4095) >> 12;
        const struct word *word = &vocabulary[rank * (bits >> 24 & 4095) >> 12];
        memcpy(line + at, word->text, SLOT_BYTES);
        at += word->length;
    }
    line[RECORD_BYTES - 1] = '\n';
    memcpy(record, line, RECORD_BYTES);
}

static void write_record(const struct load *load, uint64_t *record) {
    if (load->is_text) {
        write_text(record);
        return;
    }
    for (int i = 0; i < RECORD_WORDS; i++) {
        record[i] = next_random();
    }
}

/* Depends on each word and its place; sums of records add up to the sum of their page. */
static uint64_t sum_of(const uint64_t *words, uint64_t first, uint64_t count) {
    uint64_t sum = 0;
    for (uint64_t i = 0; i < count; i++) {
        sum += (words[i] ^ (first + i)) * ((first + i) * 0x9e3779b97f4a7c15 | 1);
    }
    return sum;
}

static void rewrite_record(struct load *load, uint64_t page, uint64_t record) {
    uint64_t first = record * RECORD_WORDS;
    uint64_t *words = load->pages[page] + first;
    load->sums[page] -= sum_of(words, first, RECORD_WORDS);
    write_record(load, words);
    load->sums[page] += sum_of(words, first, RECORD_WORDS);
}

static void fill(struct load *load) {
    for (uint64_t page = 0; page < load->count; page++) {
        for (int record = 0; record < RECORDS; record++) {
            write_record(load, load->pages[page] + record * RECORD_WORDS);
        }
        load->sums[page] = sum_of(load->pages[page], 0, PAGE_WORDS);
    }
}

static void dirty(struct load *load, uint64_t writes) {
    for (uint64_t i = 0; i < writes && load->count > 0; i++) {
        uint64_t bits = next_random();
        rewrite_record(load, (bits >> 8) % load->count, bits % RECORDS);
    }
}

/* Verifies the next pages in turn and reports those that are wrong; returns how many are. */
static uint64_t verify(struct load *load, uint64_t pages) {
    uint64_t wrong = 0;
    for (uint64_t i = 0; i < pages; i++) {
        uint64_t page = load->next_to_verify++ % load->count;
        uint64_t found = sum_of(load->pages[page], 0, PAGE_WORDS);
        if (found != load->sums[page] && wrong++ < REPORTS_PER_TICK) {
            printf("CORRUPT page=%llu found=%016llx expected=%016llx\n", (unsigned long long)page,
                   (unsigned long long)found, (unsigned long long)load->sums[page]);
        }
    }
    return wrong;
}

static void *map(uint64_t bytes) {
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) {
        printf("FAILED no %llu bytes of memory\n", (unsigned long long)bytes);
        exit(1);
    }
    return memory;
}

static void run(struct load *load, uint64_t writes_per_s, uint64_t share) {
    uint64_t next_ms = now_ms();
    for (uint64_t tick = 1;; tick++) {
        for (uint64_t slice = 0; slice < SLICES_PER_S; slice++) {
            uint64_t done = writes_per_s * slice / SLICES_PER_S;
            dirty(load, writes_per_s * (slice + 1) / SLICES_PER_S - done);
            sleep_until_slice(&next_ms, SLICES_PER_S);
        }
        uint64_t pages = (load->count + share - 1) / share;
        uint64_t wrong = verify(load, pages);
        printf("tick %llu checksum=%s pages=%llu\n", (unsigned long long)tick,
               wrong ? "BAD" : "OK", (unsigned long long)pages);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    const char *mode = getenv("mode") ? getenv("mode") : "idle";
    struct load load = {.is_text = strcmp(mode, "text") == 0};
    uint64_t share = number("share", 4);
    if (strcmp(mode, "idle") != 0) {
        load.count = number("mib", 0) * PAGES_PER_MIB;
        load.pages = map(load.count * PAGE_BYTES);
        load.sums = map(load.count * sizeof *load.sums);
        make_vocabulary();
        fill(&load);
    }
    printf("ready mode=%s pages=%llu\n", mode, (unsigned long long)load.count);
    run(&load, number("rate_mib", 0) * PAGES_PER_MIB, share ? share : 1);
}
