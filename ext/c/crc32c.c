#include "crc32c.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define SS_CRC_INSTRUCTION 1
#define SS_CRC_TARGET __attribute__((target("sse4.2")))
#define SS_CRC_WORD(crc, word) ((uint32_t)_mm_crc32_u64((crc), (word)))
#define SS_CRC_BYTE(crc, byte) _mm_crc32_u8((crc), (byte))
#elif defined(__aarch64__) && defined(__linux__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define SS_CRC_INSTRUCTION 1
#if defined(__clang__)
#define SS_CRC_TARGET __attribute__((target("crc")))
#else
#define SS_CRC_TARGET __attribute__((target("+crc")))
#endif
#define SS_CRC_WORD(crc, word) __crc32cd((crc), (word))
#define SS_CRC_BYTE(crc, byte) __crc32cb((crc), (byte))
#endif

#define POLYNOMIAL 0x82F63B78u
/* Three lanes of this many bytes are 16 bytes less than a 4 KiB page of a log, the usual input. */
#define LANE ((size_t)1360)

static uint32_t table[8][256]; /* [k][b]: byte b followed by k zero bytes */
static uint32_t skip[4][256];  /* [k][b]: byte k of a register after LANE zero bytes */

static uint32_t after_lane(uint32_t crc)
{
    for (size_t i = 0; i < LANE; i++)
        crc = table[0][crc & 0xff] ^ (crc >> 8);
    return crc;
}

void ss_crc32c_setup(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t crc = byte;
        for (int bit = 0; bit < 8; bit++)
            crc = crc & 1 ? (crc >> 1) ^ POLYNOMIAL : crc >> 1;
        table[0][byte] = crc;
    }
    for (int k = 1; k < 8; k++)
        for (int byte = 0; byte < 256; byte++)
            table[k][byte] = table[0][table[k - 1][byte] & 0xff] ^ (table[k - 1][byte] >> 8);
    /* A register's way through zero bytes is linear: the images of its 32 bits give all the others. */
    for (int bit = 0; bit < 32; bit++) {
        uint32_t image = after_lane((uint32_t)1 << bit);
        uint32_t *row = skip[bit / 8];
        for (int byte = 0; byte < 256; byte++)
            if (byte >> bit % 8 & 1)
                row[byte] ^= image;
    }
}

static inline uint32_t step(uint32_t crc, uint8_t byte) { return table[0][(crc ^ byte) & 0xff] ^ (crc >> 8); }

static inline uint32_t little(const uint8_t *data)
{
    return data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 | (uint32_t)data[3] << 24;
}

uint32_t ss_crc32c_tables(uint32_t value, const uint8_t *data, size_t length)
{
    uint32_t crc = ~value;
    for (; length >= 8; data += 8, length -= 8) {
        uint32_t low = crc ^ little(data), high = little(data + 4);
        crc = table[7][low & 0xff] ^ table[6][low >> 8 & 0xff] ^ table[5][low >> 16 & 0xff] ^ table[4][low >> 24]
              ^ table[3][high & 0xff] ^ table[2][high >> 8 & 0xff] ^ table[1][high >> 16 & 0xff] ^ table[0][high >> 24];
    }
    for (; length; data++, length--)
        crc = step(crc, *data);
    return ~crc;
}

#if defined(SS_CRC_INSTRUCTION)

static inline uint64_t word_at(const uint8_t *data)
{
    uint64_t word;
    memcpy(&word, data, 8);
    return word;
}

static inline uint32_t over_lane(uint32_t crc)
{
    return skip[0][crc & 0xff] ^ skip[1][crc >> 8 & 0xff] ^ skip[2][crc >> 16 & 0xff] ^ skip[3][crc >> 24];
}

/* The instruction takes three cycles but starts one a cycle, so three independent lanes keep it busy. */
SS_CRC_TARGET static uint32_t by_instruction(uint32_t value, const uint8_t *data, size_t length)
{
    uint32_t crc = ~value;
    for (; length >= 3 * LANE; data += 3 * LANE, length -= 3 * LANE) {
        uint32_t second = 0, third = 0;
        for (size_t at = 0; at < LANE; at += 8) {
            crc = SS_CRC_WORD(crc, word_at(data + at));
            second = SS_CRC_WORD(second, word_at(data + LANE + at));
            third = SS_CRC_WORD(third, word_at(data + 2 * LANE + at));
        }
        crc = over_lane(over_lane(crc) ^ second) ^ third;
    }
    for (; length >= 8; data += 8, length -= 8)
        crc = SS_CRC_WORD(crc, word_at(data));
    for (; length; data++, length--)
        crc = SS_CRC_BYTE(crc, *data);
    return ~crc;
}

#endif

ss_crc32c_fn ss_crc32c_best(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2"))
        return by_instruction;
#elif defined(SS_CRC_INSTRUCTION)
    if (getauxval(AT_HWCAP) & HWCAP_CRC32)
        return by_instruction;
#endif
    return ss_crc32c_tables;
}
