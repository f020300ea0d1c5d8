#include "credentials_json.h"

#include <string.h>

enum { ITERATIONS_MIN = 4096, ITERATIONS_MAX = 1000000, TEXT_MAX = (SCRAM_KEY_MAX + 2) / 3 * 4 };

static json_t *encoded(const void *p, size_t n)
{
    char text[TEXT_MAX + 1];
    base64_encode(text, p, n);
    return json_string(text);
}

json_t *credentials_to_json(const struct credentials *c)
{
    json_t *j = json_object();
    for (enum scram_hash h = 0; h < SCRAM_HASHES; h++) {
        const struct scram_keys *k = &c->keys[h];
        if (k->iterations)
            json_object_set_new(j, scram_name(h),
                                json_pack("{s:I, s:o, s:o, s:o}", "iterations", (json_int_t)k->iterations, "salt",
                                          encoded(k->salt, SCRAM_SALT_LEN), "stored", encoded(k->stored, scram_len(h)),
                                          "server", encoded(k->server, scram_len(h))));
    }
    return j;
}

static bool decode(const json_t *j, const char *name, uint8_t *out, size_t n)
{
    const json_t *text = json_object_get(j, name);
    size_t len = json_string_length(text);
    uint8_t bytes[SCRAM_KEY_MAX];
    if (!len || len > TEXT_MAX || base64_decode(bytes, sizeof bytes, json_string_value(text), len) != (long)n)
        return false;
    memcpy(out, bytes, n);
    return true;
}

static bool keys_from_json(const json_t *j, enum scram_hash h, struct scram_keys *k)
{
    json_int_t iterations = json_integer_value(json_object_get(j, "iterations"));
    k->iterations = (uint32_t)iterations;
    return iterations >= ITERATIONS_MIN && iterations <= ITERATIONS_MAX && decode(j, "salt", k->salt, SCRAM_SALT_LEN) &&
           decode(j, "stored", k->stored, scram_len(h)) && decode(j, "server", k->server, scram_len(h));
}

enum err credentials_from_json(const json_t *j, struct credentials *out)
{
    size_t found = 0;
    memset(out, 0, sizeof *out);
    for (enum scram_hash h = 0; h < SCRAM_HASHES; h++) {
        const json_t *keys = json_object_get(j, scram_name(h));
        if (keys && !keys_from_json(keys, h, &out->keys[h]))
            return ERR_INVALID;
        found += keys != NULL;
    }
    return found && found == json_object_size(j) ? OK : ERR_INVALID;
}
