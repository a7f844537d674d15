/* See transmit.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "transmit.h"
#include "wire.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define IN_ROOM ((size_t)256 << 10)
#define OUT_ROOM ((size_t)256 << 10)
/* Reads up to here are gathered. Larger ones go through a buffer: sendfile saves a copy, and yet one connection had
 * 1,540 MiB/s of 1 MiB reads with it and 2,870 with the buffer (nbdcopy's four: 1 GiB in 0.24 s and in 0.32 s). */
#define SMALL ((uint64_t)64 << 10)
#define KEEP ((size_t)4 << 20) /* a larger buffer is not kept for the next request */

typedef struct worker {
    ss_conn *conn;
    uint8_t *out, *buffer;
    size_t used, room;
} worker;

/* -- the socket ----------------------------------------------------------------------------------------------- */

static int closing(ss_conn *c) { return __atomic_load_n(&c->closing, __ATOMIC_ACQUIRE); }

static void close_down(ss_conn *c)
{
    __atomic_store_n(&c->closing, 1, __ATOMIC_RELEASE);
    shutdown(c->fd, SHUT_RDWR);
}

static int send_all(ss_conn *c, const uint8_t *data, size_t length, int more)
{
    while (length) {
        ssize_t put = send(c->fd, data, length, MSG_NOSIGNAL | (more ? MSG_MORE : 0));
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0) {
            close_down(c);
            return -1;
        }
        data += put;
        length -= (size_t)put;
    }
    return 0;
}

static int send_two(ss_conn *c, const uint8_t *head, size_t head_length, const uint8_t *data, size_t length)
{
    int failed;
    pthread_mutex_lock(&c->sending);
    failed = closing(c) ? -1 : send_all(c, head, head_length, length > 0);
    if (!failed)
        failed = send_all(c, data, length, 0);
    pthread_mutex_unlock(&c->sending);
    return failed;
}

static int flush_out(worker *w)
{
    if (!w->used)
        return 0;
    int failed = send_two(w->conn, w->out, w->used, NULL, 0);
    w->used = 0;
    return failed;
}

/* Receive until `need` bytes from `at` are in the buffer. Answers are sent before anything is waited for. */
static int fill(worker *w, size_t need)
{
    ss_conn *c = w->conn;
    if (c->end - c->at >= need)
        return 0;
    if (flush_out(w))
        return -1;
    if (c->at + need > IN_ROOM || c->at == c->end) {
        memmove(c->in, c->in + c->at, c->end - c->at);
        c->end -= c->at;
        c->at = 0;
    }
    while (c->end - c->at < need) {
        ssize_t got = recv(c->fd, c->in + c->end, IN_ROOM - c->end, 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        c->end += (size_t)got;
    }
    return 0;
}

static int own_buffer(worker *w, size_t length)
{
    if (length <= w->room)
        return 0;
    free(w->buffer);
    w->buffer = malloc(length);
    w->room = w->buffer ? length : 0;
    return w->buffer ? 0 : -1;
}

/* The payload of a write into the worker's own buffer, or nowhere. */
static int take(worker *w, size_t length, int keep)
{
    ss_conn *c = w->conn;
    size_t have = c->end - c->at < length ? c->end - c->at : length, done = have;
    if (keep)
        memcpy(w->buffer, c->in + c->at, have);
    c->at += have;
    if (done < length && flush_out(w))
        return -1;
    while (done < length) {
        size_t part = keep || length - done < IN_ROOM ? length - done : IN_ROOM;
        ssize_t got = recv(c->fd, keep ? w->buffer + done : c->in, part, keep ? MSG_WAITALL : 0);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return -1;
        done += (size_t)got;
    }
    return 0;
}

/* -- replies ---------------------------------------------------------------------------------------------------- */

static int reply(worker *w, const request *r, int error, int now)
{
    if (w->used + HEAD_ROOM > OUT_ROOM && flush_out(w))
        return -1;
    w->used += plain_reply(w->conn, r, w->out + w->used, error);
    return now ? flush_out(w) : 0;
}

/* -- requests ----------------------------------------------------------------------------------------------------- */

static int parse(worker *w, request *r)
{
    ss_conn *c = w->conn;
    size_t size = c->extended ? 32 : 28;
    if (fill(w, size))
        return -1;
    const uint8_t *p = c->in + c->at;
    if (get32(p) != (c->extended ? 0x21e41c71u : 0x25609513u))
        return -1;
    r->flags = get16(p + 4);
    r->command = get16(p + 6);
    r->cookie = get64(p + 8);
    r->offset = get64(p + 16);
    r->length = c->extended ? get64(p + 24) : get32(p + 24);
    int follows = c->extended ? (r->flags & PAYLOAD_LEN) != 0 : r->command == WRITE;
    c->at += size;
    if (follows && r->length > c->max_payload)
        return -1; /* nothing tells what is after so much that nobody agreed to */
    r->payload = follows ? (size_t)r->length : 0;
    return 0;
}

static int refuse(const ss_conn *c, const request *r)
{
    const ss_disk *d = c->disk;
    static const uint16_t allowed[] = {DF, FUA, 0, FUA, FUA | NO_HOLE, 0, FUA | NO_HOLE | FAST_ZERO, REQ_ONE};
    uint16_t flags = r->flags & (uint16_t)~(c->extended && r->command == WRITE ? PAYLOAD_LEN : 0);
    if (r->command > BLOCK_STATUS || r->command == DISC)
        return EINVAL;
    if (flags & (uint16_t)~(allowed[r->command] | FUA)) /* FUA: harmless everywhere, and some clients say it */
        return EINVAL;
    if (c->extended && (r->command == WRITE) != (r->payload > 0) && (r->length || r->payload))
        return EINVAL;
    if (r->command == FLUSH)
        return 0;
    if (r->offset > d->size || r->length > d->size - r->offset)
        return r->command == WRITE || r->command == WRITE_ZEROES ? ENOSPC : EINVAL;
    if (d->read_only && (r->command == WRITE || r->command == WRITE_ZEROES || (r->command == TRIM && !d->frozen)))
        return EPERM;
    if (r->command == READ && r->length > c->max_payload)
        return EINVAL;
    if (r->command == BLOCK_STATUS && (!c->contexts || !r->length))
        return EINVAL;
    return 0;
}

/* A small read that need not wait, straight into the gathered answers: 1 done, 0 not, -1 the connection is over. */
static int quick_read(worker *w, const request *r)
{
    ss_conn *c = w->conn;
    ss_disk *d = c->disk;
    if (d->fd < 0 || r->length > SMALL)
        return 0;
    if (w->used + HEAD_ROOM + r->length > OUT_ROOM && flush_out(w))
        return -1;
    uint8_t *out = w->out + w->used;
    size_t head = r->length ? read_head(c, r, out) : plain_reply(c, r, out, 0);
    if (d->frozen || c->no_nowait) {
        int error = r->length ? ss_disk_read(d, r->offset, out + head, r->length) : 0;
        if (error)
            return reply(w, r, error, 0) ? -1 : 1;
    } else if (r->length) {
        struct iovec part = {out + head, r->length};
        ssize_t got = preadv2(d->fd, &part, 1, (off_t)r->offset, RWF_NOWAIT);
        if (got < 0 && (errno == EOPNOTSUPP || errno == EINVAL || errno == ENOSYS)) {
            c->no_nowait = 1; /* tmpfs before Linux 6.x: it never waits either */
            return quick_read(w, r);
        }
        if (got != (ssize_t)r->length)
            return 0;
    }
    w->used += head + r->length;
    return 1;
}

static void slow_read(worker *w, const request *r)
{
    ss_conn *c = w->conn;
    uint8_t head[HEAD_ROOM];
    int error = own_buffer(w, r->length ? r->length : 1) ? ENOMEM : ss_disk_read(c->disk, r->offset, w->buffer, r->length);
    if (error || !r->length)
        reply(w, r, error, 1);
    else
        send_two(c, head, read_head(c, r, head), w->buffer, r->length);
}

static void block_status(worker *w, const request *r)
{
    ss_conn *c = w->conn;
    uint8_t *chunks[SS_CONTEXTS];
    size_t lengths[SS_CONTEXTS], made = 0;
    int error = 0;
    for (uint32_t i = 0; i < c->contexts && !error; i++) {
        uint64_t *pairs = NULL;
        size_t count = 0;
        error = c->status(c->status_context, i, r->offset, r->length, r->flags & REQ_ONE, &pairs, &count);
        if (!error && !(chunks[made] = status_chunk(c, r, i, pairs, count, &lengths[made])))
            error = ENOMEM;
        made += !error;
        free(pairs);
    }
    if (error)
        reply(w, r, error, 1);
    for (size_t i = 0; i < made; i++) {
        if (!error)
            send_two(c, chunks[i], lengths[i], NULL, 0);
        free(chunks[i]);
    }
}

static int change(ss_disk *d, const request *r, const uint8_t *data)
{
    switch (r->command) {
    case WRITE:
        return ss_disk_write(d, r->offset, data, r->payload, r->flags & FUA);
    case FLUSH:
        return ss_disk_flush(d);
    case CACHE:
        return 0;
    case WRITE_ZEROES:
        if (r->flags & FAST_ZERO)
            return EOPNOTSUPP;
        /* fall through */
    default:
        return ss_disk_zero(d, r->offset, r->length, r->command == TRIM || !(r->flags & NO_HOLE), r->flags & FUA);
    }
}

/* May it be answered by the thread that leads? Files take writes into the page cache. */
static int is_quick(const ss_conn *c, const request *r)
{
    if (c->disk->fd < 0 || r->flags & FUA || r->command == FLUSH || r->command == BLOCK_STATUS)
        return 0;
    return r->command == CACHE || r->length <= (r->command == WRITE ? IN_ROOM / 2 : SMALL);
}

static void *helper(void *argument);

/* Another thread leads while this one waits. */
static void give_lead(worker *w)
{
    ss_conn *c = w->conn;
    if (!__atomic_load_n(&c->waiting, __ATOMIC_ACQUIRE) && c->helpers < SS_HELPERS &&
        pthread_create(&c->helper[c->helpers], NULL, helper, c) == 0)
        c->helpers++;
    pthread_mutex_unlock(&c->receiving);
}

static void take_lead(ss_conn *c)
{
    __atomic_fetch_add(&c->waiting, 1, __ATOMIC_ACQ_REL);
    pthread_mutex_lock(&c->receiving);
    __atomic_fetch_sub(&c->waiting, 1, __ATOMIC_ACQ_REL);
}

static void wait_for(worker *w, const request *r)
{
    ss_disk *d = w->conn->disk;
    int alone = __atomic_fetch_add(&d->running, 1, __ATOMIC_RELAXED) >= SS_FUNCTIONS && d->fd < 0;
    if (!alone)
        give_lead(w);
    if (r->command == READ)
        slow_read(w, r);
    else if (r->command == BLOCK_STATUS)
        block_status(w, r);
    else
        reply(w, r, change(w->conn->disk, r, w->buffer), 1);
    if (w->room > KEEP) {
        free(w->buffer);
        w->buffer = NULL;
        w->room = 0;
    }
    __atomic_fetch_sub(&d->running, 1, __ATOMIC_RELAXED);
    if (!alone)
        take_lead(w->conn);
}

/* One request, by the thread that leads; nonzero where the connection is over. */
static int serve_one(worker *w)
{
    ss_conn *c = w->conn;
    request r;
    if (parse(w, &r))
        return -1;
    if (r.command == DISC)
        return -1;
    __atomic_fetch_add(&c->requests, 1, __ATOMIC_RELAXED);
    int error = refuse(c, &r);
    if (error)
        return take(w, r.payload, 0) ? -1 : reply(w, &r, error, 0);
    if (r.command == READ) {
        __atomic_fetch_add(&c->bytes_read, r.length, __ATOMIC_RELAXED);
        int done = quick_read(w, &r);
        if (done)
            return done < 0 ? -1 : 0;
    } else if (r.command == WRITE) {
        __atomic_fetch_add(&c->bytes_written, r.length, __ATOMIC_RELAXED);
    }
    if (r.command != READ && is_quick(c, &r)) {
        if (fill(w, r.payload))
            return -1;
        error = change(c->disk, &r, c->in + c->at);
        c->at += r.payload;
        return reply(w, &r, error, 0);
    }
    if (r.payload && (own_buffer(w, r.payload) || take(w, r.payload, 1)))
        return -1;
    if (flush_out(w))
        return -1;
    wait_for(w, &r);
    return 0;
}

static void *run(ss_conn *c)
{
    worker w = {c, malloc(OUT_ROOM + HEAD_ROOM), NULL, 0, 0};
    take_lead(c);
    while (w.out && !closing(c))
        if (serve_one(&w)) {
            flush_out(&w);
            close_down(c);
        }
    pthread_mutex_unlock(&c->receiving);
    free(w.buffer);
    free(w.out);
    return NULL;
}

static void *helper(void *argument) { return run(argument); }

int ss_transmit(ss_conn *c)
{
    c->in = malloc(IN_ROOM);
    if (!c->in)
        return ENOMEM;
    c->at = c->end = 0;
    c->closing = c->waiting = c->helpers = c->no_nowait = 0;
    pthread_mutex_init(&c->receiving, NULL);
    pthread_mutex_init(&c->sending, NULL);
    run(c);
    /* Nobody leads any more, so nobody starts another. */
    for (int i = 0; i < c->helpers; i++)
        pthread_join(c->helper[i], NULL);
    pthread_mutex_destroy(&c->receiving);
    pthread_mutex_destroy(&c->sending);
    free(c->in);
    c->in = NULL;
    return 0;
}
