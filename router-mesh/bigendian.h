/* Numbers in the order of the network, at any alignment. */
#ifndef ROOKERY_BIGENDIAN_H
#define ROOKERY_BIGENDIAN_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

#define BE_FUNCTIONS(bits)                                                                                             \
    static inline void be_put##bits(void *at, uint##bits##_t v)                                                        \
    {                                                                                                                  \
        v = htobe##bits(v);                                                                                            \
        memcpy(at, &v, sizeof v);                                                                                      \
    }                                                                                                                  \
    static inline uint##bits##_t be_get##bits(const void *at)                                                          \
    {                                                                                                                  \
        uint##bits##_t v;                                                                                              \
        memcpy(&v, at, sizeof v);                                                                                      \
        return be##bits##toh(v);                                                                                       \
    }
BE_FUNCTIONS(16)
BE_FUNCTIONS(32)
BE_FUNCTIONS(64)
#undef BE_FUNCTIONS

#endif
