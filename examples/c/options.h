/* The command line of the example hypervisor. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include "program.h"
#include "verify.h"

#ifdef __cplusplus
extern "C" {
#endif

enum mode { MODE_SOURCE, MODE_DESTINATION, MODE_SELF_TEST };

/* How the program ends. */
enum {
    EXIT_FINE = 0,
    EXIT_USAGE = 1,
    EXIT_SETUP = 2,   /* no guest, no node, no connection to listen on */
    EXIT_PROOF = 3,   /* the guest's memory or counters are not what they must be */
    EXIT_FAILED = 4,  /* the migration failed; the guest went on here */
    EXIT_IN_DOUBT = 5 /* only the destination's record tells who has the guest */
};

struct options {
    enum mode mode;
    const char *name;        /* of the guest */
    const char *to;          /* where it migrates: --to, or --return */
    const char *listen;
    const char *control;
    const char *state_dir;
    const char *identity;
    uint32_t memory_mib, working_set_mib;
    uint64_t dirty_mib_per_s;
    enum content content;
    bool no_kvm;
    double after_seconds, run_seconds;
    bool await_return, stay;
    uint32_t streams;
    const char *codec;
    int codec_level;
    uint64_t max_downtime_ms, deadline_ms, bandwidth_mib_per_s;
    bool no_throttle, event_loop, json;
    enum verify verify;
    enum damage corrupt;
};

extern const char *const content_names[];

/* Reads the command line; on false the program ends with *exit_code. */
bool options_parse(struct options *options, int count, char **arguments, int *exit_code);

#ifdef __cplusplus
}
#endif
#endif
