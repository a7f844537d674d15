/* Is a buffer all zero? The first sixteen bytes decide almost every block that holds data; the rest is one
 * overlapping memcmp, which the C library runs at the speed of memory. */
#ifndef SS_ZERO_H
#define SS_ZERO_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline int ss_is_zero(const uint8_t *data, size_t length)
{
    size_t head = length < 16 ? length : 16;
    for (size_t i = 0; i < head; i++)
        if (data[i])
            return 0;
    return length <= 16 || memcmp(data, data + 16, length - 16) == 0;
}

#endif
