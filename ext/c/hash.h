/* XXH3-128 with a seed, over one buffer; the digest is written in canonical (big-endian) order, so that it is
 * the same sixteen bytes as the `xxhash` package's xxh3_128_digest(data, seed).
 *
 * Every kernel gives the same bits. ss_hash_best() names the widest one this processor runs. */
#ifndef SS_HASH_H
#define SS_HASH_H

#include <stddef.h>
#include <stdint.h>

typedef void (*ss_hash_fn)(const void *data, size_t length, uint64_t seed, uint8_t out[16]);

void ss_hash_library(const void *data, size_t length, uint64_t seed, uint8_t out[16]);
#if defined(__x86_64__)
void ss_hash_avx2(const void *data, size_t length, uint64_t seed, uint8_t out[16]);
#endif
ss_hash_fn ss_hash_best(void);

#endif
