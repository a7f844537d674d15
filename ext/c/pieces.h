/* A growing list of file ranges that join where they touch: what the walks over allocation tables give back. */
#ifndef SS_PIECES_H
#define SS_PIECES_H

#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

typedef struct {
    int32_t *fds;
    int64_t *offsets;
    int64_t *lengths;
    size_t count;
    size_t room;
} ss_pieces;

static inline void ss_pieces_free(ss_pieces *list)
{
    free(list->fds);
    free(list->offsets);
    free(list->lengths);
    list->fds = NULL;
    list->offsets = list->lengths = NULL;
    list->count = list->room = 0;
}

static inline int ss_pieces_grow(ss_pieces *list)
{
    size_t room = list->room ? 2 * list->room : 64;
    int32_t *fds = realloc(list->fds, room * sizeof *fds);
    if (fds)
        list->fds = fds;
    int64_t *offsets = realloc(list->offsets, room * sizeof *offsets);
    if (offsets)
        list->offsets = offsets;
    int64_t *lengths = realloc(list->lengths, room * sizeof *lengths);
    if (lengths)
        list->lengths = lengths;
    if (!fds || !offsets || !lengths)
        return -1;
    list->room = room;
    return 0;
}

/* Append a range; below 0 a `fd` names no file (zeros, or a hole), and the offset is kept as 0. -1: no memory. */
static inline int ss_pieces_add(ss_pieces *list, int32_t fd, int64_t offset, int64_t length)
{
    if (length == 0)
        return 0;
    if (fd < 0)
        offset = 0;
    if (list->count) {
        size_t last = list->count - 1;
        if (list->fds[last] == fd && (fd < 0 || list->offsets[last] + list->lengths[last] == offset)) {
            list->lengths[last] += length;
            return 0;
        }
    }
    if (list->count == list->room && ss_pieces_grow(list))
        return -1;
    list->fds[list->count] = fd;
    list->offsets[list->count] = offset;
    list->lengths[list->count] = length;
    list->count++;
    return 0;
}

/* The first bit at or after `start` of a bitmap whose bytes begin with their MOST significant bit that equals
 * `value`, or `end`. Eight bytes at a time where they are all alike. */
static inline uint64_t ss_next_msb(const uint8_t *bits, uint64_t start, uint64_t end, int value)
{
    while (start < end) {
        uint8_t byte = value ? bits[start >> 3] : (uint8_t)~bits[start >> 3];
        byte &= (uint8_t)(0xff >> (start & 7));
        if (byte) {
            uint64_t found = (start & ~(uint64_t)7) + (uint64_t)(__builtin_clz(byte) - 24);
            return found < end ? found : end;
        }
        start = (start | 7) + 1;
        while (start + 64 <= end) {
            uint64_t word;
            __builtin_memcpy(&word, bits + (start >> 3), 8);
            if (word != (value ? 0 : ~(uint64_t)0))
                break;
            start += 64;
        }
    }
    return end;
}

#endif
