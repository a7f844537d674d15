/* libxxhash's own inline implementation, compiled for AVX2 whatever the build's baseline is. */
#pragma GCC target("avx2")
#define XXH_INLINE_ALL
#define XXH_VECTOR 2 /* XXH_AVX2 */
#include <xxhash.h>

#include "hash.h"

void ss_hash_avx2(const void *data, size_t length, uint64_t seed, uint8_t out[16])
{
    XXH128_hash_t digest = XXH3_128bits_withSeed(data, length, seed);
    XXH128_canonicalFromHash((XXH128_canonical_t *)out, digest);
}
