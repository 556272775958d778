/* Versions, the status table and the last error. */
#include "check.h"

static void versions(void) {
    CHECK(dwcp_abi_version() == DWCP_ABI_VERSION);
    CHECK(dwcp_version()[0] >= '0' && dwcp_version()[0] <= '9');
}

static void every_status_has_its_name(void) {
    static const struct {
        dwcp_status code;
        const char *name;
    } table[] = {
#define STATUS(code) {code, #code},
#include "status_table.inc"
#undef STATUS
    };
    CHECK(sizeof table / sizeof table[0] >= 36);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        CHECK(strcmp(dwcp_status_name(table[i].code), table[i].name) == 0);
}

static void unknown_codes_have_a_name_too(void) {
    static const dwcp_status codes[] = {1, -18, -99, -10000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        CHECK(strcmp(dwcp_status_name(codes[i]), "DWCP_ERR_UNKNOWN") == 0);
}

static void the_last_error_is_empty_at_first_and_then_holds_the_value(void) {
    char text[256] = "x";
    size_t needed = 0;
    OK(dwcp_last_error(text, sizeof text, &needed));
    CHECK(text[0] == 0 && needed == 1);
    CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_node_free((dwcp_node *)(void *)0xabc1));
    CHECK(last_error_has("0xabc1"));
}

static void texts_come_in_any_buffer(void) {
    char text[256];
    size_t needed = 0;
    CHECK_STATUS(DWCP_ERR_BAD_HANDLE, dwcp_node_free((dwcp_node *)(void *)0xabc1));
    OK(dwcp_last_error(NULL, 0, &needed));
    CHECK(needed > 10 && needed < sizeof text);
    for (size_t length = 0; length < needed; length++) {
        size_t again = 0;
        memset(text, '#', sizeof text);
        CHECK_STATUS(DWCP_ERR_BUFFER_TOO_SMALL, dwcp_last_error(text, length, &again));
        CHECK(again == needed && text[length] == '#');
        CHECK(length == 0 || strlen(text) == length - 1);
    }
    OK(dwcp_last_error(text, needed, NULL));
    CHECK(strlen(text) == needed - 1);
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_last_error(NULL, 9, &needed));
    CHECK_STATUS(DWCP_ERR_NULL_POINTER, dwcp_last_error(NULL, 0, NULL));
}

int main(void) {
    CASE(the_last_error_is_empty_at_first_and_then_holds_the_value);
    CASE(versions);
    CASE(every_status_has_its_name);
    CASE(unknown_codes_have_a_name_too);
    CASE(texts_come_in_any_buffer);
    return REPORT();
}
