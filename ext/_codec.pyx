"""Batch encode and decode: the data and zero frames of a delta, built and checked without the GIL.

The layout of a frame is specified in FORMAT.md; `engine/portable/codec.py` builds the same frames in Python.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

cdef extern from "hash.h" nogil:
    ctypedef void (*ss_hash_fn)(const void *data, size_t length, uint64_t seed, uint8_t *out) noexcept
    ss_hash_fn ss_hash_best()

cdef extern from "lz4.h" nogil:
    int LZ4_sizeofState()
    int LZ4_compress_fast_extState(void *state, const char *src, char *dst, int size, int room, int acceleration)
    int LZ4_decompress_safe(const char *src, char *dst, int stored, int room)

cdef extern from "zstd.h" nogil:
    ctypedef struct ZSTD_CCtx
    ctypedef struct ZSTD_DCtx
    ZSTD_CCtx *ZSTD_createCCtx()
    ZSTD_DCtx *ZSTD_createDCtx()
    size_t ZSTD_freeCCtx(ZSTD_CCtx *context)
    size_t ZSTD_freeDCtx(ZSTD_DCtx *context)
    size_t ZSTD_compressCCtx(ZSTD_CCtx *context, void *dst, size_t room, const void *src, size_t size, int level)
    size_t ZSTD_decompressDCtx(ZSTD_DCtx *context, void *dst, size_t room, const void *src, size_t size)
    size_t ZSTD_findFrameCompressedSize(const void *src, size_t size)
    unsigned long long ZSTD_getFrameContentSize(const void *src, size_t size)
    unsigned ZSTD_isError(size_t code)

NONE, LZ4, ZSTD = 0, 1, 2
cdef int C_NONE = 0
cdef int C_LZ4 = 1
cdef int C_ZSTD = 2
DATA, ZEROS = 1, 2
HEADER_BYTES = 64
DEF HEADER = 64
DEF TABLE_SUM = 1  # the flag of a frame whose `table_sum` counts
cdef uint32_t FRAME_MAGIC = 0x4D524653  # "SFRM"
cdef size_t MAX_BODY = 0x7E000000  # what LZ4 takes in one piece, in an int

cdef ss_hash_fn hash_fn = ss_hash_best()


cdef struct Header:
    uint32_t magic
    uint8_t kind
    uint8_t codec
    uint16_t flags
    uint32_t count
    uint32_t stored
    uint32_t raw
    uint32_t table_sum
    uint64_t tag
    uint64_t first
    uint64_t last
    uint8_t checksum[16]


cdef void sum_table(uint8_t *frame, Header *header) noexcept nogil:
    """Of a data frame whose table is in place: lets a reader believe the table without the payload."""
    cdef uint8_t digest[16]
    header.flags |= TABLE_SUM
    memcpy(frame, header, HEADER)
    hash_fn(frame, HEADER + 24 * <size_t>header.count, header.tag, digest)
    memcpy(&header.table_sum, digest, 4)


cdef void seal(uint8_t *frame, Header *header) noexcept nogil:
    """Write the header and its checksum, which covers the header's first 48 bytes and the body."""
    cdef uint8_t digest[16]
    hash_fn(frame + HEADER, header.stored, header.tag, digest)
    memcpy(header.checksum, digest, 16)
    memcpy(frame, header, HEADER)
    # The body's digest takes part in the header's: one pass over the body, no copy of it.
    hash_fn(frame, HEADER, header.tag, digest)
    memcpy(frame + 48, digest, 16)


def check_frame(const uint8_t[::1] frame):
    """Does the checksum of this whole frame (header and body) hold?"""
    cdef Header header
    cdef uint8_t digest[16]
    cdef bint good
    if frame.shape[0] < HEADER:
        return False
    memcpy(&header, &frame[0], HEADER)
    if <uint64_t>frame.shape[0] != HEADER + <uint64_t>header.stored:
        return False
    with nogil:
        hash_fn(&frame[0] + HEADER, header.stored, header.tag, header.checksum)
        hash_fn(&header, HEADER, header.tag, digest)
        good = memcmp(digest, &frame[48], 16) == 0
    return good


cdef class Encoder:
    """One thread's compression state. `level` is zstd's level, or LZ4's acceleration."""

    cdef ZSTD_CCtx *zstd
    cdef void *lz4
    cdef readonly int codec
    cdef readonly int level
    cdef readonly uint32_t group_bytes

    def __cinit__(self, int codec, int level, uint32_t group_bytes):
        if codec not in (NONE, LZ4, ZSTD):
            raise ValueError(f"no codec number {codec}")
        self.codec = codec
        self.level = level
        self.group_bytes = group_bytes
        if codec == ZSTD:
            self.zstd = ZSTD_createCCtx()
        elif codec == LZ4:
            self.lz4 = malloc(LZ4_sizeofState())
        if (codec == ZSTD and self.zstd == NULL) or (codec == LZ4 and self.lz4 == NULL):
            raise MemoryError("a compression context")

    def __dealloc__(self):
        ZSTD_freeCCtx(self.zstd)
        free(self.lz4)

    cdef size_t compress(self, const uint8_t *src, size_t size, uint8_t *dst, size_t room) noexcept nogil:
        """Compressed bytes, or 0 where they would not be fewer than `size`."""
        cdef size_t made
        cdef int packed
        if self.codec == C_ZSTD:
            made = ZSTD_compressCCtx(self.zstd, dst, room, src, size, self.level)
            return 0 if ZSTD_isError(made) or made >= size else made
        if self.codec == C_LZ4:
            packed = LZ4_compress_fast_extState(
                self.lz4, <const char *>src, <char *>dst, <int>size, <int>room, self.level if self.level > 0 else 1)
            return 0 if packed <= 0 or <size_t>packed >= size else packed
        return 0

    def bound(self, size_t count, size_t used, uint32_t block_size):
        """Bytes that `encode` may need for a batch of `count` blocks and `used` bytes of payload."""
        # A frame of data holds at least one block; one of zeros, one run.
        cdef size_t frames = 2 * count + 2
        return used + 24 * count + HEADER * frames + 4096

    def encode(self, const uint64_t[::1] blocks, const uint32_t[::1] lengths, const uint8_t[::1] hashes,
               size_t count, const uint8_t[::1] payload, uint64_t tag, uint8_t[::1] out, uint64_t[::1] frames):
        """Frame a batch: data blocks in groups of up to `group_bytes`, zero blocks as runs.

        Fills `out` with whole frames, one after another, and `frames` with three numbers each: first block,
        last block, offset in `out`. Returns (bytes, frames). `out` must hold `bound(...)` bytes.
        Blocks must ascend; a caller's batch that does not is cut into frames at each step back.
        """
        cdef size_t at = 0
        cdef size_t end
        cdef size_t i
        cdef size_t made = 0
        cdef size_t n_frames = 0
        cdef size_t taken = 0
        cdef size_t raw
        cdef size_t packed
        cdef size_t body
        cdef uint64_t run_first
        cdef Header header
        cdef uint8_t *frame
        if (<size_t>blocks.shape[0] < count or <size_t>lengths.shape[0] < count
                or <size_t>hashes.shape[0] < 16 * count or <size_t>frames.shape[0] < 3 * (2 * count + 2)):
            raise ValueError("an array is shorter than the batch")
        for i in range(count):
            taken += lengths[i]
        if <size_t>payload.shape[0] < taken:
            raise ValueError("the payload is shorter than its blocks")
        if taken + 24 * count > MAX_BODY:  # the header's sizes have 32 bits
            raise ValueError("the batch is larger than a frame may be")
        if <size_t>out.shape[0] < self.bound(count, taken, 0):
            raise ValueError("no room for the frames")
        taken = 0
        with nogil:
            while at < count:
                frame = &out[made]
                memset(&header, 0, sizeof(header))
                header.magic = FRAME_MAGIC
                header.tag = tag
                header.first = blocks[at]
                body = HEADER
                if lengths[at] == 0:
                    header.kind = 2
                    end = at
                    while end < count and lengths[end] == 0 and (end == at or blocks[end] > blocks[end - 1]):
                        run_first = blocks[end]
                        memcpy(frame + body, &run_first, 8)
                        i = end + 1
                        while i < count and lengths[i] == 0 and blocks[i] and blocks[i] - 1 == blocks[i - 1]:
                            i += 1
                        run_first = i - end
                        memcpy(frame + body + 8, &run_first, 8)
                        header.count += 1
                        body += 16
                        end = i
                else:
                    header.kind = 1
                    end = at
                    raw = 0
                    while (end < count and lengths[end] and (end == at or blocks[end] > blocks[end - 1])
                           and (end == at or raw + lengths[end] <= self.group_bytes)):
                        raw += lengths[end]
                        end += 1
                    header.count = end - at
                    header.raw = raw
                    memcpy(frame + HEADER, &blocks[at], 8 * (end - at))
                    memcpy(frame + HEADER + 8 * (end - at), &hashes[16 * at], 16 * (end - at))
                    body = HEADER + 24 * (end - at)
                    packed = self.compress(&payload[taken], raw, frame + body, raw)
                    if packed:
                        header.codec = self.codec
                        body += packed
                    else:
                        if frame + body != &payload[taken]:  # a frame may be made around its payload
                            memcpy(frame + body, &payload[taken], raw)
                        body += raw
                    taken += raw
                header.last = blocks[end - 1]
                header.stored = body - HEADER
                if header.kind == 1:
                    sum_table(frame, &header)
                seal(frame, &header)
                frames[3 * n_frames] = header.first
                frames[3 * n_frames + 1] = header.last
                frames[3 * n_frames + 2] = made
                n_frames += 1
                made += body
                at = end
        return made, n_frames


cdef class Decoder:
    """One thread's decompression state."""

    cdef ZSTD_DCtx *zstd

    def __cinit__(self):
        self.zstd = ZSTD_createDCtx()
        if self.zstd == NULL:
            raise MemoryError("a decompression context")

    def __dealloc__(self):
        ZSTD_freeDCtx(self.zstd)

    def decode(self, int codec, const uint8_t[::1] stored, uint8_t[::1] raw):
        """Decompress into exactly `raw`; False where the bytes are not that.

        zstd bytes are one frame that states its size, as the encoder writes them: no second or skippable frame.
        """
        cdef size_t size = raw.shape[0]
        cdef bint good
        if stored.shape[0] == 0 or size == 0:
            return stored.shape[0] == 0 and size == 0
        with nogil:
            if codec == C_NONE:
                good = <size_t>stored.shape[0] == size
                if good:
                    memcpy(&raw[0], &stored[0], size)
            elif <size_t>stored.shape[0] > MAX_BODY or size > MAX_BODY:
                good = False
            elif codec == C_LZ4:
                good = LZ4_decompress_safe(<const char *>&stored[0], <char *>&raw[0], <int>stored.shape[0],
                                           <int>size) == <int>size
            elif codec == C_ZSTD:
                good = (ZSTD_getFrameContentSize(&stored[0], stored.shape[0]) == size
                        and ZSTD_findFrameCompressedSize(&stored[0], stored.shape[0]) == <size_t>stored.shape[0]
                        and ZSTD_decompressDCtx(self.zstd, &raw[0], size, &stored[0], stored.shape[0]) == size)
            else:
                good = False
        return good
