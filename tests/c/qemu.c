/* Guests of QEMUs: what is refused, and, where QEMU is installed, one that is taken on. */
#include "check.h"
#include "guest.h"
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[] = "/tmp/dwcp-c-qemu-XXXXXX";
static char path[64];

static const char *in_folder(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void bad_paths_and_flags_are_named(void) {
    dwcp_node *node = new_node(NULL);
    char long_path[5000];
    memset(long_path, 'x', sizeof long_path);
    long_path[0] = '/';
    long_path[sizeof long_path - 1] = 0;
    CHECK_STATUS(DWCP_ERR_CONNECT, dwcp_node_attach_qemu(node, "vm", in_folder("none"), 0));
    CHECK(last_error_has(path) && last_error_has("No such file"));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_attach_qemu(node, "vm", long_path, 0));
    CHECK(last_error_has("qmp_path is longer than"));
    long_path[200] = 0;
    CHECK_STATUS(DWCP_ERR_CONNECT, dwcp_node_attach_qemu(node, "vm", long_path, 0));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_attach_qemu(node, "", path, 0));
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_attach_qemu(node, "vm", path, 2));
    CHECK(last_error_has("flags is 0x2"));
    uint64_t cleared_bytes = 7;
    OK(dwcp_node_clear_held(node, NULL, 0, &cleared_bytes));
    CHECK(cleared_bytes == 0);
    OK(dwcp_node_clear_held(node, "vm", 60, NULL));
    OK(dwcp_node_free(node));
}

/* Takes one client, says something that no QEMU says, and hangs up. */
static void *talk_nonsense(void *listener) {
    int client = accept(*(int *)listener, NULL, NULL);
    if (client >= 0 && write(client, "220 mail.example\r\n", 18) == 18) close(client);
    return NULL;
}

static void a_socket_of_something_else_is_refused(void) {
    dwcp_node *node = new_node(NULL);
    struct sockaddr_un address = {0};
    pthread_t thread;
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    address.sun_family = AF_UNIX;
    snprintf(address.sun_path, sizeof address.sun_path, "%s", in_folder("mail.sock"));
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(listen(listener, 1) == 0);
    CHECK(pthread_create(&thread, NULL, talk_nonsense, &listener) == 0);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, dwcp_node_attach_qemu(node, "vm", path, 0));
    CHECK(last_error_has("no QMP socket") && last_error_has("220 mail.example"));
    CHECK(last_error_has(path));
    pthread_join(thread, NULL);
    close(listener);
    unlink(address.sun_path);
    OK(dwcp_node_free(node));
}

static int is_installed(void) {
    return system("command -v qemu-system-x86_64 >/dev/null 2>&1") == 0;
}

static pid_t start_qemu(const char *name, int incoming) {
    char qmp[96];
    pid_t child;
    snprintf(qmp, sizeof qmp, "unix:%s,server=on,wait=off", in_folder(name));
    child = fork();
    if (child != 0) return child;
    if (incoming)
        execlp("qemu-system-x86_64", "qemu", "-M", "pc", "-m", "64", "-S", "-nodefaults", "-display",
               "none", "-qmp", qmp, "-incoming", "defer", (char *)NULL);
    else
        execlp("qemu-system-x86_64", "qemu", "-M", "pc", "-m", "64", "-S", "-nodefaults", "-display",
               "none", "-qmp", qmp, (char *)NULL);
    _exit(127);
}

/* It listens some time after its start. */
static dwcp_status attach_soon(dwcp_node *node, const char *name, uint32_t flags) {
    dwcp_status status = DWCP_ERR_CONNECT;
    for (int i = 0; i < 600 && status == DWCP_ERR_CONNECT; i++) {
        status = dwcp_node_attach_qemu(node, "vm", in_folder(name), flags);
        if (status == DWCP_ERR_CONNECT) usleep(50000);
    }
    return status;
}

static void take_on(int incoming, const char *role) {
    dwcp_node *node = new_node(NULL);
    char guests[512] = "";
    pid_t qemu = start_qemu("qmp.sock", incoming);
    uint32_t right = incoming ? DWCP_QEMU_INCOMING : 0, other = incoming ? 0 : DWCP_QEMU_INCOMING;
    dwcp_status taken, again, listed, wrong = attach_soon(node, "qmp.sock", other);
    int said = last_error_has("in state");
    taken = attach_soon(node, "qmp.sock", right);
    again = dwcp_node_attach_qemu(node, "twin", in_folder("qmp.sock"), right);
    listed = dwcp_node_guests_json(node, guests, sizeof guests, NULL);
    /* Before anything is checked, so that no QEMU outlives a failure. */
    kill(qemu, SIGKILL);
    waitpid(qemu, NULL, 0);
    unlink(in_folder("qmp.sock"));
    CHECK_STATUS(DWCP_ERR_BAD_STATE, wrong);
    CHECK(said);
    OK(taken);
    CHECK_STATUS(DWCP_ERR_ALREADY_EXISTS, again);
    OK(listed);
    CHECK(strstr(guests, role) && strstr(guests, "67108864"));
    OK(dwcp_node_remove_guest(node, "vm"));
    OK(dwcp_node_free(node));
}

static void a_guest_that_is_there_is_taken_on(void) { take_on(0, "\"source\""); }

static void a_guest_that_is_to_come_is_taken_on(void) { take_on(1, "\"destination\""); }

/* A node that keeps nothing of guests that left or came. */
static dwcp_node *forgetful_node(const char *listen) {
    dwcp_node_options options = {sizeof options, 0, listen, 0, 0, 0, DWCP_NODE_PLAIN,
                                 0, 0, 0, 0, {0}};
    dwcp_node *node = NULL;
    options.flags |= DWCP_NODE_NO_HELD_PAGES;
    OK(dwcp_node_new(&options, &node));
    return node;
}

/* What was kept is there some time after the guest has left. */
static uint64_t held_bytes_soon(dwcp_node *node) {
    uint64_t cleared_bytes = 0;
    for (int i = 0; i < 600 && cleared_bytes == 0; i++) {
        OK(dwcp_node_clear_held(node, "vm", 0, &cleared_bytes));
        if (cleared_bytes == 0) usleep(50000);
    }
    return cleared_bytes;
}

static void a_guest_moves_over_channels_and_is_held_where_that_is_allowed(void) {
    dwcp_node *from = new_node(NULL), *to = forgetful_node("127.0.0.1:0");
    dwcp_migration_options options = fast_options();
    dwcp_migration *migration = NULL;
    dwcp_status here, there, too_many, started, waited = DWCP_OK, ended = DWCP_ERR_PANIC;
    uint64_t cleared_bytes = 7;
    pid_t source = start_qemu("from.sock", 0), destination = start_qemu("to.sock", 1);
    int said;
    here = attach_soon(from, "from.sock", 0);
    there = attach_soon(to, "to.sock", DWCP_QEMU_INCOMING);
    options.multifd_channels = 17;
    too_many = dwcp_node_migrate(from, "vm", address_of(to), &options, &migration);
    said = last_error_has("multifd_channels is 17; it must be 0 to 16");
    options.multifd_channels = 2;
    started = dwcp_node_migrate(from, "vm", address_of(to), &options, &migration);
    if (started == DWCP_OK) waited = dwcp_migration_wait(migration, 60000, &ended);
    kill(source, SIGKILL);
    kill(destination, SIGKILL);
    waitpid(source, NULL, 0);
    waitpid(destination, NULL, 0);
    unlink(in_folder("from.sock"));
    unlink(in_folder("to.sock"));
    OK(here);
    OK(there);
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT, too_many);
    CHECK(said);
    OK(started);
    OK(waited);
    OK(ended);
    CHECK(held_bytes_soon(from) > 0);
    OK(dwcp_node_clear_held(to, NULL, 0, &cleared_bytes));
    CHECK(cleared_bytes == 0);
    OK(dwcp_migration_free(migration));
    OK(dwcp_node_free(from));
    OK(dwcp_node_free(to));
}

static void channels_are_for_guests_of_qemus(void) {
    dwcp_node *node = new_node(NULL);
    dwcp_migration_options options = fast_options();
    dwcp_migration *migration = NULL;
    guest g;
    guest_init(&g, 4);
    dwcp_region region = guest_region(&g);
    dwcp_source source = guest_source(&g, &region);
    OK(dwcp_node_add_source(node, "vm", &source));
    options.multifd_channels = 1;
    CHECK_STATUS(DWCP_ERR_INVALID_ARGUMENT,
                 dwcp_node_migrate(node, "vm", "127.0.0.1:1", &options, &migration));
    CHECK(last_error_has("registered by a hypervisor") && !migration);
    OK(dwcp_node_free(node));
    guest_free(&g);
}

int main(void) {
    if (!mkdtemp(folder)) return 1;
    CASE(bad_paths_and_flags_are_named);
    CASE(a_socket_of_something_else_is_refused);
    CASE(channels_are_for_guests_of_qemus);
    if (is_installed()) {
        CASE(a_guest_that_is_there_is_taken_on);
        CASE(a_guest_that_is_to_come_is_taken_on);
        CASE(a_guest_moves_over_channels_and_is_held_where_that_is_allowed);
    }
    rmdir(folder);
    return REPORT();
}
