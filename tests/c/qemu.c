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

static pid_t start_qemu(int incoming) {
    char qmp[96];
    pid_t child;
    snprintf(qmp, sizeof qmp, "unix:%s,server=on,wait=off", in_folder("qmp.sock"));
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
static dwcp_status attach_soon(dwcp_node *node, uint32_t flags) {
    dwcp_status status = DWCP_ERR_CONNECT;
    for (int i = 0; i < 600 && status == DWCP_ERR_CONNECT; i++) {
        status = dwcp_node_attach_qemu(node, "vm", in_folder("qmp.sock"), flags);
        if (status == DWCP_ERR_CONNECT) usleep(50000);
    }
    return status;
}

static void take_on(int incoming, const char *role) {
    dwcp_node *node = new_node(NULL);
    char guests[512] = "";
    pid_t qemu = start_qemu(incoming);
    dwcp_status taken, again, listed, wrong = attach_soon(node, incoming ? 0 : DWCP_QEMU_INCOMING);
    int said = last_error_has("in state");
    taken = attach_soon(node, incoming ? DWCP_QEMU_INCOMING : 0);
    again = dwcp_node_attach_qemu(node, "twin", in_folder("qmp.sock"),
                                  incoming ? DWCP_QEMU_INCOMING : 0);
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

int main(void) {
    if (!mkdtemp(folder)) return 1;
    CASE(bad_paths_and_flags_are_named);
    CASE(a_socket_of_something_else_is_refused);
    if (is_installed()) {
        CASE(a_guest_that_is_there_is_taken_on);
        CASE(a_guest_that_is_to_come_is_taken_on);
    }
    rmdir(folder);
    return REPORT();
}
