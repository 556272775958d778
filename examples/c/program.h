/*
 * What the guest's program (../guest/guest.S) leaves in memory, seen from outside: the same pages
 * written by C, and the proof that a memory image is exactly what it must be.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    PAGE_BYTES = 4096,
    PAGE_WORDS = PAGE_BYTES / 4,
    CODE_ADDRESS = 0x1000,
    CONTROL_ADDRESS = 0x2000,
    TABLES_ADDRESS = 0x3000, /* page tables, one to one, 2 MiB a page */
    TABLES_BYTES = 5 * PAGE_BYTES,
    FIRST_DATA_PAGE = 16,
    MAX_MEMORY_MIB = 3072 /* so much these tables map */
};

enum content { CONTENT_RANDOM, CONTENT_TEXT, CONTENT_ZERO_HEAVY };

/* The control page, as guest.S knows it. */
struct control {
    uint32_t magic, version;
    uint32_t first_page;        /* number of the first data page */
    uint32_t data_pages;        /* the first so many writes fill them in order */
    uint32_t working_set_pages; /* then only the first so many are written, in steps of `stride` */
    uint32_t stride;
    uint32_t content;
    uint32_t ticks;   /* times the guest asked how many pages to write */
    uint64_t counter; /* pages written */
    uint32_t cursor;  /* index of the data page to write next */
    uint32_t batch;   /* pages left to write before the next question */
};

/* Lays out an empty memory so that the program can start at CODE_ADDRESS. */
void program_load(uint8_t *memory, size_t memory_bytes, enum content content,
                  uint32_t working_set_mib);

static inline struct control *program_control(uint8_t *memory)
{
    return (struct control *)(void *)(memory + CONTROL_ADDRESS);
}

/* Writes one page, as the program does it. */
void program_step(uint8_t *memory);

/* Which data page write number `sequence` goes to. */
uint32_t program_page_of(const struct control *control, uint64_t sequence);

/* What a check of a whole memory image found. */
struct proof {
    bool holds;
    uint64_t counter;
    uint64_t pages, data_pages, zero_pages;
    uint64_t bad_checksums; /* a page whose bytes do not match its checksum */
    uint64_t bad_sequences; /* a page that is older or newer than the counter says */
    uint64_t bad_other;     /* a page never written and not zero; the program; its tables */
    int64_t first_bad_page; /* -1: none */
    char text[192];         /* the first thing wrong */
};

/*
 * Checks every page of a memory that nobody writes. The counter tells, for each data page, the
 * number of the write that it must hold: an update lost on the way shows even where the old
 * page's checksum holds.
 */
void program_prove(const uint8_t *memory, size_t memory_bytes, struct proof *proof);

/* Damages an image in a way that program_prove must find; for tests of the proof itself. */
enum damage { DAMAGE_NONE, DAMAGE_BYTE, DAMAGE_STALE, DAMAGE_COUNTER, DAMAGE_CODE };
void program_damage(uint8_t *memory, enum damage damage);

#ifdef __cplusplus
}
#endif
#endif
