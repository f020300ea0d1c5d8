/* Any bytes as a configuration: either a configuration or an explanation, never both or neither. */
#include "config_table.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct config *c;
    char *why;
    enum err e = config_parse("fuzz", "/nonexistent", (const char *)data, n, &c, &why);
    CHECK((e == OK) == (c != NULL) && (e == OK) == (why == NULL), "%s", err_name(e));
    CHECK(!c || c->host_count, "no hosts");
    config_free(&c);
    free(why);
    return 0;
}
