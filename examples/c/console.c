/* Lines, progress bar and JSON; see console.h. */
#include "console.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { BAR_CELLS = 24 };

static FILE *output;
static bool is_terminal, has_bar;
static uint64_t last_line_us;

void console_open(const struct options *options)
{
    output = options->json ? stderr : stdout;
    is_terminal = isatty(fileno(output));
}

void say(const char *format, ...)
{
    va_list arguments;
    if (has_bar)
        fputs("\r\033[K", output);
    has_bar = false;
    va_start(arguments, format);
    vfprintf(output, format, arguments);
    va_end(arguments);
    fputc('\n', output);
    fflush(output);
}

static double mib(uint64_t bytes)
{
    return (double)bytes / (1 << 20);
}

static void format_progress(const struct shown_progress *progress, char *text, size_t room)
{
    snprintf(text, room,
             "%-12s pass %-2" PRIu32 " %7.1f MiB left, sent %7.1f MiB, link %6.0f MiB/s, guest writes "
             "%4.0f MiB/s, downtime would be %.1f ms",
             progress->phase, progress->pass, mib(progress->remaining_pages * PAGE_BYTES),
             mib(progress->wire_bytes), mib(progress->bandwidth_bytes_per_s),
             mib(progress->dirty_rate_bytes_per_s),
             (double)progress->predicted_downtime_us / 1000);
}

void show_progress(const struct shown_progress *progress)
{
    char text[256], bar[BAR_CELLS + 1];
    format_progress(progress, text, sizeof(text));
    if (!is_terminal) {
        if (progress->elapsed_us < last_line_us)
            last_line_us = 0;
        if (progress->elapsed_us - last_line_us < 500 * 1000)
            return;
        last_line_us = progress->elapsed_us;
        say("%s", text);
        return;
    }
    uint64_t pages = progress->pages != 0 ? progress->pages : 1;
    uint64_t left = progress->remaining_pages < pages ? progress->remaining_pages : pages;
    size_t full = (size_t)((pages - left) * BAR_CELLS / pages);
    memset(bar, ' ', BAR_CELLS);
    memset(bar, '#', full);
    bar[BAR_CELLS] = '\0';
    fprintf(output, "\r\033[K[%s] %s", bar, text);
    fflush(output);
    has_bar = true;
}

void show_guest(struct guest *guest, const struct options *options)
{
    const char *where = guest_kind_of(guest) == GUEST_KVM ? "on /dev/kvm" : "as a thread";
    if (options->mode == MODE_DESTINATION)
        say("guest %s: %u MiB %s, empty", options->name, options->memory_mib, where);
    else
        say("guest %s: %u MiB %s, writing %" PRIu64 " MiB/s of %s pages", options->name,
            options->memory_mib, where, options->dirty_mib_per_s, content_names[options->content]);
}

void show_proof(const char *when, const struct proof *proof)
{
    if (proof->holds && proof->pages == 0)
        say("proof %s: goes on from write %" PRIu64 " (memory not checked)", when, proof->counter);
    else if (proof->holds)
        say("proof %s: at write %" PRIu64 ", %" PRIu64 " pages, %" PRIu64 " of them written: every "
            "checksum holds and every page is the newest",
            when, proof->counter, proof->pages, proof->data_pages);
    else
        say("PROOF FAILED %s: %s (%" PRIu64 " checksums, %" PRIu64 " sequences, %" PRIu64
            " other pages wrong)",
            when, proof->text, proof->bad_checksums, proof->bad_sequences, proof->bad_other);
}

void format_proof(const struct proof *proof, char *text, size_t room)
{
    snprintf(text, room,
             "{\"holds\":%s,\"counter\":%" PRIu64 ",\"pages\":%" PRIu64 ",\"data_pages\":%" PRIu64
             ",\"zero_pages\":%" PRIu64 ",\"bad_checksums\":%" PRIu64 ",\"bad_sequences\":%" PRIu64
             ",\"bad_other\":%" PRIu64 ",\"first_bad_page\":%" PRId64 ",\"text\":\"%s\"}",
             proof->holds ? "true" : "false", proof->counter, proof->pages, proof->data_pages,
             proof->zero_pages, proof->bad_checksums, proof->bad_sequences, proof->bad_other,
             proof->first_bad_page, proof->text);
}
