/* The transmission phase of an NBD connection, after the handshake: requests in, replies out, without Python.
 *
 * One thread leads: it receives, and answers at once what does not have to wait, gathering the answers to all requests
 * that came together. Before a request that may wait (a disk, a flush, a large transfer) it lets the next thread lead.
 * Formats are those of engine/nbd/protocol.py. */
#ifndef SS_TRANSMIT_H
#define SS_TRANSMIT_H

#include "disk.h"

#define SS_HELPERS 3
/* Calls of an image's functions at once, before a connection does one thing after the other: they hold Python's lock but
 * while they wait for a disk. nbdcopy's four connections read 1 GiB of a head in 0.80 s without this bound, in 0.55 with it. */
#define SS_FUNCTIONS 1
#define SS_CONTEXTS 4

typedef struct ss_conn {
    int fd;
    ss_disk *disk;
    int structured, extended;
    uint32_t max_payload, contexts, ids[SS_CONTEXTS];
    /* Descriptors (length, flags) of a range for one context, in memory that the caller frees. */
    int (*status)(void *context, uint32_t which, uint64_t offset, uint64_t length, int one, uint64_t **pairs,
                  size_t *count);
    void *status_context;
    pthread_mutex_t receiving, sending;
    uint8_t *in;
    size_t at, end;
    int closing, waiting, helpers, no_nowait;
    pthread_t helper[SS_HELPERS];
    uint64_t requests, bytes_read, bytes_written;
} ss_conn;

/* Serve until the client leaves or breaks the protocol. Returns 0, or an errno where memory is short. */
int ss_transmit(ss_conn *conn);

#endif
