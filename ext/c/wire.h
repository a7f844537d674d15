/* How requests and replies of the NBD protocol lie in memory; numbers as in engine/nbd/protocol.py. */
#ifndef SS_WIRE_H
#define SS_WIRE_H

#include "transmit.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS };
enum { FUA = 1, NO_HOLE = 2, DF = 4, REQ_ONE = 8, FAST_ZERO = 16, PAYLOAD_LEN = 32 };
enum { NONE = 0, OFFSET_DATA = 1, STATUS = 5, STATUS_EXT = 6, ERROR = 0x8001, DONE = 1 };

#define HEAD_ROOM 48 /* no head of a reply is longer */

typedef struct request {
    uint16_t flags, command;
    uint64_t cookie, offset, length;
    size_t payload;
} request;

static inline uint16_t get16(const uint8_t *p) { uint16_t v; memcpy(&v, p, 2); return be16toh(v); }
static inline uint32_t get32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return be32toh(v); }
static inline uint64_t get64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return be64toh(v); }
static inline void put16(uint8_t *p, uint16_t v) { v = htobe16(v); memcpy(p, &v, 2); }
static inline void put32(uint8_t *p, uint32_t v) { v = htobe32(v); memcpy(p, &v, 4); }
static inline void put64(uint8_t *p, uint64_t v) { v = htobe64(v); memcpy(p, &v, 8); }

static inline size_t chunk_head(const ss_conn *c, const request *r, uint8_t *out, uint16_t flags, uint16_t type,
                         uint64_t length)
{
    put32(out, c->extended ? 0x6e8a278c : 0x668e33ef);
    put16(out + 4, flags);
    put16(out + 6, type);
    put64(out + 8, r->cookie);
    if (!c->extended) {
        put32(out + 16, (uint32_t)length);
        return 20;
    }
    put64(out + 16, r->offset);
    put64(out + 24, length);
    return 32;
}

static inline uint32_t wire_error(int error)
{
    switch (error) {
    case 0: case EPERM: case EIO: case ENOMEM: case EINVAL: case ENOSPC: case EOVERFLOW: return (uint32_t)error;
    case EROFS: return EPERM;
    case EDQUOT: case EFBIG: return ENOSPC;
    case EOPNOTSUPP: return 95;
    case ESHUTDOWN: return 108;
    default: return EIO;
    }
}

/* What answers anything but a good read or status. At most HEAD_ROOM bytes. */
static inline size_t plain_reply(const ss_conn *c, const request *r, uint8_t *out, int error)
{
    size_t used;
    if (!c->extended && !(c->structured && r->command == READ)) {
        if (!(c->structured && r->command == BLOCK_STATUS)) {
            put32(out, 0x67446698);
            put32(out + 4, wire_error(error));
            put64(out + 8, r->cookie);
            return 16;
        }
    }
    if (!error)
        return chunk_head(c, r, out, DONE, NONE, 0);
    used = chunk_head(c, r, out, DONE, ERROR, 6);
    put32(out + used, wire_error(error));
    put16(out + used + 4, 0);
    return used + 6;
}

/* The head of a good read's reply; `length` bytes follow it. */
static inline size_t read_head(const ss_conn *c, const request *r, uint8_t *out)
{
    size_t used;
    if (!c->structured && !c->extended)
        return plain_reply(c, r, out, 0);
    used = chunk_head(c, r, out, DONE, OFFSET_DATA, r->length + 8);
    put64(out + used, r->offset);
    return used + 8;
}

static inline uint8_t *status_chunk(const ss_conn *c, const request *r, uint32_t which, const uint64_t *pairs, size_t count,
                             size_t *length)
{
    size_t each = c->extended ? 16 : 8, payload = (c->extended ? 8 : 4) + each * count;
    uint8_t *out = malloc(HEAD_ROOM + payload);
    if (!out)
        return NULL;
    uint8_t *p = out + chunk_head(c, r, out, which + 1 == c->contexts ? DONE : 0, c->extended ? STATUS_EXT : STATUS,
                                  payload);
    put32(p, c->ids[which]);
    p += 4;
    if (c->extended) {
        put32(p, (uint32_t)count);
        p += 4;
    }
    for (size_t i = 0; i < count; i++, p += each) {
        if (c->extended) {
            put64(p, pairs[2 * i]);
            put64(p + 8, pairs[2 * i + 1]);
        } else {
            put32(p, (uint32_t)pairs[2 * i]);
            put32(p + 4, (uint32_t)pairs[2 * i + 1]);
        }
    }
    *length = (size_t)(p - out);
    return out;
}

#endif
