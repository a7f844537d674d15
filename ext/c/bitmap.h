/* Bits of a bitmap kept as 64-bit words, least significant bit first. */
#ifndef SS_BITMAP_H
#define SS_BITMAP_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t ss_mask_from(unsigned bit) { return ~(uint64_t)0 << bit; }

static inline void ss_set_range(uint64_t *words, uint64_t start, uint64_t end, int value)
{
    while (start < end) {
        uint64_t word = start >> 6, stop = (word + 1) << 6;
        if (stop > end)
            stop = end;
        uint64_t mask = ss_mask_from(start & 63);
        if (stop & 63)
            mask &= ~ss_mask_from(stop & 63);
        if (value)
            words[word] |= mask;
        else
            words[word] &= ~mask;
        start = stop;
    }
}

/* The first bit at or after `start` that equals `value`, or `end`. */
static inline uint64_t ss_next(const uint64_t *words, uint64_t start, uint64_t end, int value)
{
    while (start < end) {
        uint64_t word = words[start >> 6];
        if (!value)
            word = ~word;
        word &= ss_mask_from(start & 63);
        if (word) {
            uint64_t found = (start & ~(uint64_t)63) + (uint64_t)__builtin_ctzll(word);
            return found < end ? found : end;
        }
        start = (start | 63) + 1;
    }
    return end;
}

static inline uint64_t ss_count(const uint64_t *words, uint64_t bits)
{
    uint64_t total = 0;
    for (uint64_t i = 0; i < bits >> 6; i++)
        total += (uint64_t)__builtin_popcountll(words[i]);
    if (bits & 63)
        total += (uint64_t)__builtin_popcountll(words[bits >> 6] & ~ss_mask_from(bits & 63));
    return total;
}

#endif
