/* CRC-32C (Castagnoli, reflected polynomial 0x82F63B78, register inverted before and after).
 *
 * `value` is the result of the bytes before these, 0 at the start. Every kernel gives the same bits;
 * ss_crc32c_best() names the fastest one this processor runs. Call ss_crc32c_setup() once before any of them. */
#ifndef SS_CRC32C_H
#define SS_CRC32C_H

#include <stddef.h>
#include <stdint.h>

typedef uint32_t (*ss_crc32c_fn)(uint32_t value, const uint8_t *data, size_t length);

void ss_crc32c_setup(void);
uint32_t ss_crc32c_tables(uint32_t value, const uint8_t *data, size_t length);
ss_crc32c_fn ss_crc32c_best(void);

#endif
