/* A test program's vocabulary: CASE runs a function, CHECK ends it when something is not so. */
#ifndef CHECK_H
#define CHECK_H

#include "dwcp.h"
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

static int cases_passed, cases_failed;
static jmp_buf case_end;

/* For the thread that runs the case only; other threads count what went wrong and tell it. */
#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) check_failed(__FILE__, __LINE__, #condition);                            \
    } while (0)

#define CHECK_STATUS(expected, call)                                                               \
    do {                                                                                           \
        dwcp_status check_got = (call);                                                            \
        if (check_got != (expected)) check_status_failed(__LINE__, #call, (expected), check_got);  \
    } while (0)

#define OK(call) CHECK_STATUS(DWCP_OK, call)

#define CASE(function)                                                                             \
    do {                                                                                           \
        if (setjmp(case_end) == 0) {                                                               \
            function();                                                                            \
            cases_passed++;                                                                        \
        } else {                                                                                   \
            cases_failed++;                                                                        \
            fprintf(stderr, "FAIL %s\n", #function);                                               \
        }                                                                                          \
    } while (0)

#define REPORT() (printf("%d passed, %d failed\n", cases_passed, cases_failed), cases_failed != 0)

static inline void check_failed(const char *file, int line, const char *text) {
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, text);
    longjmp(case_end, 1);
}

static inline void check_status_failed(int line, const char *call, dwcp_status expected,
                                       dwcp_status got) {
    char text[1024] = "";
    (void)(dwcp_last_error(text, sizeof text, NULL) == DWCP_OK);
    fprintf(stderr, "line %d: %s gave %s, not %s (last error: %s)\n", line, call,
            dwcp_status_name(got), dwcp_status_name(expected), text);
    longjmp(case_end, 1);
}

/* Whether the thread's last error holds a text. */
static inline int last_error_has(const char *part) {
    char text[1024] = "";
    (void)(dwcp_last_error(text, sizeof text, NULL) == DWCP_OK);
    if (strstr(text, part)) return 1;
    fprintf(stderr, "last error is \"%s\"\n", text);
    return 0;
}

#endif
