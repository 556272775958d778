/* The guest's program in C, and the proof of a memory image; see program.h. */
#include "program.h"

#include "../guest/guest_code.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const uint32_t MAGIC = 0x47435744; /* "DWCG" */
static const uint32_t VERSION = 1;
enum { FILL_START = 4, TEXT_OFFSET = 0x200 };

static uint32_t greatest_common_divisor(uint32_t a, uint32_t b)
{
    return b ? greatest_common_divisor(b, a % b) : a;
}

/* Steps of the golden ratio scatter the writes; coprime, so that they visit every page. */
static uint32_t stride_for(uint32_t pages)
{
    uint32_t stride = (uint32_t)(pages * 0.618);
    while (stride > 1 && greatest_common_divisor(stride, pages) != 1)
        stride--;
    return stride ? stride : 1;
}

/*
 * One table of the first level, one of the second, three of the third. The accessed and dirty bits
 * are set from the start, so that the processor has nothing to write there.
 */
static void make_tables(uint64_t tables[TABLES_BYTES / 8])
{
    const uint64_t table = 0x27, page = 0xe7; /* present, writable, user, accessed (dirty, large) */
    enum { ENTRIES = PAGE_BYTES / 8, LARGE_PAGE_BYTES = 2 << 20 };
    memset(tables, 0, TABLES_BYTES);
    tables[0] = (TABLES_ADDRESS + PAGE_BYTES) | table;
    for (uint64_t i = 0; i < 3; i++)
        tables[ENTRIES + i] = (TABLES_ADDRESS + (2 + i) * PAGE_BYTES) | table;
    for (uint64_t i = 0; i < 3 * ENTRIES; i++)
        tables[2 * ENTRIES + i] = (i * LARGE_PAGE_BYTES) | page;
}

void program_load(uint8_t *memory, size_t memory_bytes, enum content content,
                  uint32_t working_set_mib)
{
    struct control *control = program_control(memory);
    uint32_t pages = (uint32_t)(memory_bytes / PAGE_BYTES) - FIRST_DATA_PAGE;
    uint64_t wanted = (uint64_t)working_set_mib * (1 << 20) / PAGE_BYTES;

    memcpy(memory + CODE_ADDRESS, guest_code, sizeof(guest_code));
    make_tables((uint64_t *)(void *)(memory + TABLES_ADDRESS));
    memset(control, 0, sizeof(*control));
    control->magic = MAGIC;
    control->version = VERSION;
    control->first_page = FIRST_DATA_PAGE;
    control->data_pages = content == CONTENT_ZERO_HEAVY ? (pages + 3) / 4 : pages;
    control->working_set_pages = control->data_pages;
    if (wanted != 0 && wanted < control->data_pages)
        control->working_set_pages = (uint32_t)wanted;
    control->stride = stride_for(control->working_set_pages);
    control->content = content;
}

/* The page that write `sequence` makes of data page `index`. */
static void make_page(const struct control *control, uint32_t index, uint64_t sequence,
                      volatile uint32_t *words)
{
    uint32_t page = control->first_page + index;
    uint32_t low = (uint32_t)sequence, high = (uint32_t)(sequence >> 32);
    uint32_t x = ((page * 0x9E3779B1u) ^ (low * 0x85EBCA6Bu + high)) | 1;
    uint32_t sum = page;

    sum = (sum << 5 | sum >> 27) + low;
    sum = (sum << 5 | sum >> 27) + high;
    for (uint32_t i = FILL_START; i < PAGE_WORDS; i++) {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        uint32_t word = x;
        if (control->content == CONTENT_TEXT)
            memcpy(&word, guest_code + TEXT_OFFSET + (size_t)(x >> 26) * 4, 4);
        else if (control->content == CONTENT_ZERO_HEAVY && i % 16 != 0)
            word = 0;
        words[i] = word;
        sum = (sum << 5 | sum >> 27) + word;
    }
    words[0] = page;
    words[1] = low;
    words[2] = high;
    words[3] = sum;
}

static uint32_t checksum(const uint32_t *words)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i < PAGE_WORDS; i++)
        if (i != 3)
            sum = (sum << 5 | sum >> 27) + words[i];
    return sum;
}

uint32_t program_page_of(const struct control *control, uint64_t sequence)
{
    uint64_t write = sequence - 1;
    if (write < control->data_pages)
        return (uint32_t)write;
    write -= control->data_pages;
    return (uint32_t)(write % control->working_set_pages * control->stride %
                      control->working_set_pages);
}

/* The number x with stride * x = 1 modulo pages, by Euclid. */
static uint64_t inverse(uint64_t stride, uint64_t pages)
{
    int64_t a = (int64_t)(stride % pages), b = (int64_t)pages, x = 1, y = 0;
    while (a > 1) {
        int64_t quotient = b / a, rest = b % a;
        int64_t next = y - quotient * x;
        b = a, a = rest, y = x, x = next;
    }
    return (uint64_t)(x < 0 ? x + (int64_t)pages : x) % pages;
}

/* The number of the last write to data page `index`, 0 for none, once `counter` writes were made. */
static uint64_t last_write(const struct control *control, uint64_t inverse_stride, uint32_t index,
                           uint64_t counter)
{
    uint64_t fill = control->data_pages, working_set = control->working_set_pages;
    if (counter <= fill)
        return index < counter ? index + 1 : 0;
    uint64_t step = index * inverse_stride % working_set;
    uint64_t writes = counter - fill;
    if (index >= working_set || step >= writes)
        return index + 1;
    return fill + 1 + step + (writes - 1 - step) / working_set * working_set;
}

void program_step(uint8_t *memory)
{
    struct control *control = program_control(memory);
    uint64_t sequence = control->counter + 1;
    uint32_t index = program_page_of(control, sequence);
    size_t offset = (size_t)(control->first_page + index) * PAGE_BYTES;
    make_page(control, index, sequence, (volatile uint32_t *)(void *)(memory + offset));
    *(volatile uint64_t *)&control->counter = sequence;
    control->cursor = program_page_of(control, sequence + 1);
}

static void found(struct proof *proof, uint64_t page, uint64_t *kind, const char *format, ...)
{
    va_list arguments;
    ++*kind;
    if (!proof->holds)
        return;
    proof->holds = false;
    proof->first_bad_page = (int64_t)page;
    va_start(arguments, format);
    vsnprintf(proof->text, sizeof(proof->text), format, arguments);
    va_end(arguments);
}

/* The one page that may be in the making: new words in the order of writing, then old ones. */
static bool is_in_the_making(const struct control *control, uint32_t index, uint64_t old_write,
                             const uint32_t *words)
{
    uint32_t before[PAGE_WORDS] = {0}, after[PAGE_WORDS];
    if (old_write != 0)
        make_page(control, index, old_write, before);
    make_page(control, index, control->counter + 1, after);
    uint32_t done = 0;
    while (done < PAGE_WORDS &&
           words[(done + FILL_START) % PAGE_WORDS] == after[(done + FILL_START) % PAGE_WORDS])
        done++;
    while (done < PAGE_WORDS &&
           words[(done + FILL_START) % PAGE_WORDS] == before[(done + FILL_START) % PAGE_WORDS])
        done++;
    return done == PAGE_WORDS;
}

static void prove_data_page(const struct control *control, uint32_t index, uint64_t expected,
                            const uint32_t *words, struct proof *proof)
{
    uint64_t page = control->first_page + index;
    uint64_t sequence = words[1] | (uint64_t)words[2] << 32;
    if (words[3] != checksum(words))
        found(proof, page, &proof->bad_checksums,
              "page %" PRIu64 ": checksum %08" PRIx32 " does not match its bytes (%08" PRIx32 ")",
              page, words[3], checksum(words));
    else if (words[0] != page || sequence != expected)
        found(proof, page, &proof->bad_sequences,
              "page %" PRIu64 ": holds write %" PRIu64 " of page %" PRIu32 ", must hold %" PRIu64,
              page, sequence, words[0], expected);
}

static void prove_untouched_page(const uint8_t *memory, uint64_t page, struct proof *proof)
{
    static const uint8_t zero[PAGE_BYTES];
    const uint8_t *bytes = memory + page * PAGE_BYTES;
    const uint8_t *tail = bytes;
    size_t length = PAGE_BYTES;
    if (page * PAGE_BYTES == CODE_ADDRESS) {
        if (memcmp(bytes, guest_code, sizeof(guest_code)) != 0)
            found(proof, page, &proof->bad_other, "page %" PRIu64 ": the program is damaged", page);
        tail += sizeof(guest_code), length -= sizeof(guest_code);
    } else if (page * PAGE_BYTES == CONTROL_ADDRESS) {
        tail += sizeof(struct control), length -= sizeof(struct control);
    } else if (page * PAGE_BYTES >= TABLES_ADDRESS &&
               page * PAGE_BYTES < TABLES_ADDRESS + TABLES_BYTES) {
        return; /* looked at as a whole */
    } else {
        proof->zero_pages++;
    }
    if (memcmp(tail, zero, length) != 0)
        found(proof, page, &proof->bad_other, "page %" PRIu64 ": never written, and not zero", page);
}

static void prove_tables(const uint8_t *memory, struct proof *proof)
{
    uint64_t tables[TABLES_BYTES / 8];
    make_tables(tables);
    if (memcmp(memory + TABLES_ADDRESS, tables, sizeof(tables)) != 0)
        found(proof, TABLES_ADDRESS / PAGE_BYTES, &proof->bad_other, "the page tables are damaged");
}

static bool control_is_sound(const struct control *control, uint64_t pages)
{
    return control->magic == MAGIC && control->version == VERSION &&
           control->first_page == FIRST_DATA_PAGE && control->content <= CONTENT_ZERO_HEAVY &&
           control->data_pages != 0 && control->data_pages <= pages - FIRST_DATA_PAGE &&
           control->working_set_pages != 0 &&
           control->working_set_pages <= control->data_pages &&
           control->stride == stride_for(control->working_set_pages);
}

void program_prove(const uint8_t *memory, size_t memory_bytes, struct proof *proof)
{
    struct control control;
    memset(proof, 0, sizeof(*proof));
    memcpy(&control, memory + CONTROL_ADDRESS, sizeof(control));
    proof->holds = true;
    proof->first_bad_page = -1;
    proof->pages = memory_bytes / PAGE_BYTES;
    proof->counter = control.counter;
    if (!control_is_sound(&control, proof->pages)) {
        found(proof, CONTROL_ADDRESS / PAGE_BYTES, &proof->bad_other, "the control page is damaged");
        return;
    }
    prove_tables(memory, proof);
    uint32_t next = program_page_of(&control, control.counter + 1);
    uint64_t inverse_stride = inverse(control.stride, control.working_set_pages);
    for (uint64_t page = 0; page < proof->pages; page++) {
        const uint32_t *words = (const uint32_t *)(const void *)(memory + page * PAGE_BYTES);
        uint32_t index = (uint32_t)(page - FIRST_DATA_PAGE);
        if (page < FIRST_DATA_PAGE || index >= control.data_pages) {
            prove_untouched_page(memory, page, proof);
            continue;
        }
        uint64_t expected = last_write(&control, inverse_stride, index, control.counter);
        proof->data_pages += expected != 0;
        if (index == next && is_in_the_making(&control, index, expected, words))
            continue;
        if (expected == 0)
            prove_untouched_page(memory, page, proof);
        else
            prove_data_page(&control, index, expected, words, proof);
    }
}

void program_damage(uint8_t *memory, enum damage damage)
{
    struct control *control = program_control(memory);
    uint32_t index = program_page_of(control, control->counter > 3 ? control->counter - 2 : 1);
    uint8_t *page = memory + (size_t)(control->first_page + index) * PAGE_BYTES;
    if (damage == DAMAGE_BYTE)
        page[PAGE_BYTES / 2] ^= 0x10;
    else if (damage == DAMAGE_STALE) /* a lost update: the page as an earlier write made it */
        make_page(control, index, index + 1 < control->counter - 2 ? index + 1 : control->counter,
                  (volatile uint32_t *)(void *)page);
    else if (damage == DAMAGE_COUNTER)
        control->counter -= 2;
    else if (damage == DAMAGE_CODE)
        memory[CODE_ADDRESS + TEXT_OFFSET] ^= 0xff; /* never run */
}
