/* The command line; see options.h. */
#include "options.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const content_names[] = {"random", "text", "zero-heavy", NULL};
static const char *const verify_names[] = {"snapshot", "paused", "off", NULL};
static const char *const damage_names[] = {"none", "byte", "stale", "counter", "code", NULL};
static const char *const codec_names[] = {"default", "none", "lz4", "zstd", NULL};
static const char *const mode_names[] = {"source", "destination", "self-test", NULL};

static const char usage[] =
    "usage: hypervisor source --to HOST:PORT [OPTION]...\n"
    "       hypervisor destination --listen HOST:PORT [OPTION]...\n"
    "       hypervisor self-test [OPTION]...\n"
    "\n"
    "Runs a small guest that keeps writing pages which prove themselves, and migrates it.\n"
    "\n"
    "the guest\n"
    "  --memory-mib N          its memory, 1 to 3072 (64); both sides say the same\n"
    "  --dirty-mib-per-s N     how fast it writes, 0 for idle (50)\n"
    "  --working-set-mib N     how much of its memory it writes again and again (all)\n"
    "  --content KIND          random, text or zero-heavy (random)\n"
    "  --name NAME             its name (guest)\n"
    "  --no-kvm                run it as a thread even where /dev/kvm works\n"
    "what happens\n"
    "  --to HOST:PORT          source: where it goes; without, it stays until SIGTERM\n"
    "  --after-seconds S       source: how long it runs first, once memory is filled (1)\n"
    "  --listen HOST:PORT      where to wait for a guest\n"
    "  --listen-control PATH   a socket for dwcp-v3-cli --socket PATH\n"
    "  --await-return          source: then wait for the guest to come back; needs --listen\n"
    "  --run-seconds S         how long an arrived guest runs before it is proved again (1)\n"
    "  --return HOST:PORT      destination: then migrate it there\n"
    "  --stay                  destination: then keep it running until SIGTERM\n"
    "the migration\n"
    "  --streams N             data streams, 1 to 64 (4)\n"
    "  --codec NAME            default, none, lz4, zstd or zstd:LEVEL\n"
    "  --max-downtime-ms N     (300)\n"
    "  --deadline-seconds S    give up when pre-copy takes longer (never)\n"
    "  --bandwidth-mib-per-s N cap on the wire (none)\n"
    "  --no-throttle           never slow the guest down\n"
    "  --state-dir DIR         where the node keeps ownership records (in memory)\n"
    "  --identity DIR          its certificate, by dwcp-v3-cli identity issue (plain)\n"
    "  --verify WHEN           arrival is proved on a snapshot, paused, or off (snapshot)\n"
    "the program\n"
    "  --event-loop            drive the library by its file descriptor alone, no callbacks\n"
    "  --json                  one JSON object on standard output at the end\n"
    "\n"
    "exit: 0 fine, 1 usage, 2 setup failed, 3 the proof failed, 4 the migration failed and the\n"
    "guest went on here, 5 only the destination knows who has the guest\n";

enum { LONG_BASE = 256 };
enum option_id {
    MEMORY = LONG_BASE, DIRTY, WORKING_SET, CONTENT, NAME, NO_KVM, TO, AFTER, LISTEN, CONTROL,
    AWAIT_RETURN, RUN, RETURN, STAY, STREAMS, CODEC, MAX_DOWNTIME, DEADLINE, BANDWIDTH, NO_THROTTLE, STATE_DIR,
    IDENTITY, VERIFY, EVENT_LOOP, JSON, CORRUPT, HELP
};

static const struct option long_options[] = {
    {"memory-mib", required_argument, NULL, MEMORY},
    {"dirty-mib-per-s", required_argument, NULL, DIRTY},
    {"working-set-mib", required_argument, NULL, WORKING_SET},
    {"content", required_argument, NULL, CONTENT},
    {"name", required_argument, NULL, NAME},
    {"no-kvm", no_argument, NULL, NO_KVM},
    {"to", required_argument, NULL, TO},
    {"after-seconds", required_argument, NULL, AFTER},
    {"listen", required_argument, NULL, LISTEN},
    {"listen-control", required_argument, NULL, CONTROL},
    {"await-return", no_argument, NULL, AWAIT_RETURN},
    {"run-seconds", required_argument, NULL, RUN},
    {"return", required_argument, NULL, RETURN},
    {"stay", no_argument, NULL, STAY},
    {"streams", required_argument, NULL, STREAMS},
    {"codec", required_argument, NULL, CODEC},
    {"max-downtime-ms", required_argument, NULL, MAX_DOWNTIME},
    {"deadline-seconds", required_argument, NULL, DEADLINE},
    {"bandwidth-mib-per-s", required_argument, NULL, BANDWIDTH},
    {"no-throttle", no_argument, NULL, NO_THROTTLE},
    {"state-dir", required_argument, NULL, STATE_DIR},
    {"identity", required_argument, NULL, IDENTITY},
    {"verify", required_argument, NULL, VERIFY},
    {"event-loop", no_argument, NULL, EVENT_LOOP},
    {"json", no_argument, NULL, JSON},
    {"corrupt", required_argument, NULL, CORRUPT}, /* for tests: the proof must fail */
    {"help", no_argument, NULL, HELP},
    {NULL, 0, NULL, 0},
};

static bool read_number(const char *name, const char *text, double low, double high, double *number)
{
    char *end;
    *number = strtod(text, &end);
    if (end != text && *end == '\0' && isfinite(*number) && *number >= low && *number <= high)
        return true;
    fprintf(stderr, "hypervisor: --%s is %s; it must be %g to %g\n", name, text, low, high);
    return false;
}

static bool read_whole(const char *name, const char *text, double low, double high, uint64_t *whole)
{
    double number;
    if (!read_number(name, text, low, high, &number))
        return false;
    *whole = (uint64_t)number;
    if ((double)*whole == number)
        return true;
    fprintf(stderr, "hypervisor: --%s is %s; it must be a whole number\n", name, text);
    return false;
}

static bool read_name(const char *name, const char *text, const char *const *names, int *index)
{
    for (*index = 0; names[*index] != NULL; ++*index)
        if (strcmp(names[*index], text) == 0)
            return true;
    fprintf(stderr, "hypervisor: %s is %s; it must be one of", name, text);
    for (int i = 0; names[i] != NULL; i++)
        fprintf(stderr, " %s", names[i]);
    fprintf(stderr, "\n");
    return false;
}

static bool read_codec(struct options *options, const char *text)
{
    int index;
    double level;
    if (strncmp(text, "zstd:", 5) == 0) {
        if (!read_number("codec zstd:LEVEL", text + 5, -7, 19, &level))
            return false;
        options->codec_level = (int)level;
        options->codec = "zstd";
        return true;
    }
    if (!read_name("--codec", text, codec_names, &index))
        return false;
    options->codec = codec_names[index];
    return true;
}

static bool take_number(struct options *options, int id, const char *name, const char *text)
{
    const double most = 1e6;
    uint64_t whole = 0;
    double number;
    switch (id) {
    case AFTER:
        return read_number(name, text, 0, most, &options->after_seconds);
    case RUN:
        return read_number(name, text, 0, most, &options->run_seconds);
    case DEADLINE:
        if (!read_number(name, text, 0, most, &number))
            return false;
        options->deadline_ms = (uint64_t)(number * 1000);
        return true;
    case DIRTY:
        return read_whole(name, text, 0, most, &options->dirty_mib_per_s);
    case MAX_DOWNTIME:
        return read_whole(name, text, 1, most, &options->max_downtime_ms);
    case BANDWIDTH:
        return read_whole(name, text, 0, most, &options->bandwidth_mib_per_s);
    case MEMORY:
        if (!read_whole(name, text, 1, MAX_MEMORY_MIB, &whole))
            return false;
        options->memory_mib = (uint32_t)whole;
        return true;
    case WORKING_SET:
        if (!read_whole(name, text, 1, MAX_MEMORY_MIB, &whole))
            return false;
        options->working_set_mib = (uint32_t)whole;
        return true;
    default: /* STREAMS */
        if (!read_whole(name, text, 1, 64, &whole))
            return false;
        options->streams = (uint32_t)whole;
        return true;
    }
}

static bool take_text(struct options *options, int id, const char *text)
{
    int index = 0;
    switch (id) {
    case NAME: options->name = text; return true;
    case TO: case RETURN: options->to = text; return true;
    case LISTEN: options->listen = text; return true;
    case CONTROL: options->control = text; return true;
    case STATE_DIR: options->state_dir = text; return true;
    case IDENTITY: options->identity = text; return true;
    case CODEC: return read_codec(options, text);
    case CONTENT:
        if (!read_name("--content", text, content_names, &index))
            return false;
        options->content = (enum content)index;
        return true;
    case VERIFY:
        if (!read_name("--verify", text, verify_names, &index))
            return false;
        options->verify = (enum verify)index;
        return true;
    default: /* CORRUPT */
        if (!read_name("--corrupt", text, damage_names, &index))
            return false;
        options->corrupt = (enum damage)index;
        return true;
    }
}

static bool take(struct options *options, int id, const char *name, const char *text)
{
    switch (id) {
    case NO_KVM: options->no_kvm = true; return true;
    case AWAIT_RETURN: options->await_return = true; return true;
    case STAY: options->stay = true; return true;
    case NO_THROTTLE: options->no_throttle = true; return true;
    case EVENT_LOOP: options->event_loop = true; return true;
    case JSON: options->json = true; return true;
    case NAME: case TO: case RETURN: case LISTEN: case CONTROL: case STATE_DIR: case IDENTITY: case CODEC:
    case CONTENT: case VERIFY: case CORRUPT:
        return take_text(options, id, text);
    default:
        return take_number(options, id, name, text);
    }
}

static bool is_complete(const struct options *options)
{
    const char *missing = NULL;
    if (options->mode == MODE_DESTINATION && options->listen == NULL)
        missing = "destination needs --listen HOST:PORT";
    else if (options->await_return && (options->listen == NULL || options->to == NULL))
        missing = "--await-return needs --to and --listen";
    else if (options->await_return && options->mode != MODE_SOURCE)
        missing = "--await-return is for a source";
    if (missing != NULL)
        fprintf(stderr, "hypervisor: %s\n", missing);
    return missing == NULL;
}

bool options_parse(struct options *options, int count, char **arguments, int *exit_code)
{
    int mode, id, index = 0;
    *options = (struct options){
        .name = "guest", .memory_mib = 64, .dirty_mib_per_s = 50, .after_seconds = 1,
        .run_seconds = 1, .streams = 4, .codec = "default", .max_downtime_ms = 300,
    };
    *exit_code = EXIT_USAGE;
    if (count < 2 || strcmp(arguments[1], "--help") == 0) {
        fputs(usage, count < 2 ? stderr : stdout);
        *exit_code = count < 2 ? EXIT_USAGE : EXIT_FINE;
        return false;
    }
    if (!read_name("the mode", arguments[1], mode_names, &mode))
        return false;
    options->mode = (enum mode)mode;
    while ((id = getopt_long(count - 1, arguments + 1, "", long_options, &index)) != -1) {
        if (id == HELP) {
            fputs(usage, stdout);
            *exit_code = EXIT_FINE;
            return false;
        }
        if (id < LONG_BASE || !take(options, id, long_options[index].name, optarg))
            return false;
    }
    if (optind < count - 1) {
        fprintf(stderr, "hypervisor: %s is not an option\n", arguments[1 + optind]);
        return false;
    }
    return is_complete(options);
}
