"""Numbers and layouts of the NBD protocol, which the client and the server share.

From the NBD project's doc/proto.md; extended headers from its branch extension-ext-header. All integers are big
endian. Names are those of the specification without `NBD_`; of each struct the fields are listed beside it.
"""

from __future__ import annotations

from struct import Struct

PORT = 10809
# A name, a context or a message is at most this long, in bytes of UTF-8.
MAX_STRING = 4096
# What every server should take in one request, and what neither side may call an attack.
MAX_PAYLOAD = 1 << 25
# What one BLOCK_STATUS reply should not exceed: this many descriptors.
MAX_DESCRIPTORS = 1 << 20

# -- handshake -----------------------------------------------------------------------------------------------
NBDMAGIC = 0x4E42444D41474943  # "NBDMAGIC"
IHAVEOPT = 0x49484156454F5054  # "IHAVEOPT"; what follows NBDMAGIC, and begins each option
CLISERV_MAGIC = 0x00420281861253  # what follows NBDMAGIC in the old style, which has no options
OPTION_REPLY_MAGIC = 0x0003E889045565A9

GREETING = Struct(">QQH")  # NBDMAGIC, IHAVEOPT, handshake flags
CLIENT_FLAGS = Struct(">I")
OPTION = Struct(">QII")  # IHAVEOPT, option, length; `length` bytes follow
OPTION_REPLY = Struct(">QIII")  # OPTION_REPLY_MAGIC, option, reply type, length; `length` bytes follow
EXPORT = Struct(">QH")  # size, transmission flags: what answers OPT_EXPORT_NAME, then 124 zeros unless NO_ZEROES
EXPORT_ZEROES = 124

FLAG_FIXED_NEWSTYLE = 1 << 0
FLAG_NO_ZEROES = 1 << 1
FLAG_C_FIXED_NEWSTYLE = 1 << 0
FLAG_C_NO_ZEROES = 1 << 1

OPT_EXPORT_NAME = 1
OPT_ABORT = 2
OPT_LIST = 3
OPT_PEEK_EXPORT = 4  # withdrawn
OPT_STARTTLS = 5
OPT_INFO = 6
OPT_GO = 7
OPT_STRUCTURED_REPLY = 8
OPT_LIST_META_CONTEXT = 9
OPT_SET_META_CONTEXT = 10
OPT_EXTENDED_HEADERS = 11

REP_ACK = 1
REP_SERVER = 2
REP_INFO = 3
REP_META_CONTEXT = 4
REP_FLAG_ERROR = 1 << 31
REP_ERR_UNSUP = REP_FLAG_ERROR + 1
REP_ERR_POLICY = REP_FLAG_ERROR + 2
REP_ERR_INVALID = REP_FLAG_ERROR + 3
REP_ERR_PLATFORM = REP_FLAG_ERROR + 4
REP_ERR_TLS_REQD = REP_FLAG_ERROR + 5
REP_ERR_UNKNOWN = REP_FLAG_ERROR + 6
REP_ERR_SHUTDOWN = REP_FLAG_ERROR + 7
REP_ERR_BLOCK_SIZE_REQD = REP_FLAG_ERROR + 8
REP_ERR_TOO_BIG = REP_FLAG_ERROR + 9
REP_ERR_EXT_HEADER_REQD = REP_FLAG_ERROR + 10

# Data of OPT_INFO and OPT_GO: a U32 and the export's name, a U16 count of information requests, a U16 each.
# Data of OPT_LIST_META_CONTEXT and OPT_SET_META_CONTEXT: a U32 and the export's name, a U32 count, U32 and query each.
U16 = Struct(">H")
U32 = Struct(">I")
U64 = Struct(">Q")

INFO_EXPORT = 0
INFO_NAME = 1
INFO_DESCRIPTION = 2
INFO_BLOCK_SIZE = 3

# Payloads of REP_INFO, and of REP_META_CONTEXT and REP_SERVER, which the name follows.
REP_INFO_EXPORT = Struct(">HQH")  # INFO_EXPORT, size, transmission flags
REP_INFO_BLOCK_SIZE = Struct(">HIII")  # INFO_BLOCK_SIZE, minimum, preferred, maximum payload
META_CONTEXT = U32  # id
SERVER_NAME = U32  # length of the name; a description may follow the name

CONTEXT_ALLOCATION = "base:allocation"
CONTEXT_DIRTY_BITMAP = "qemu:dirty-bitmap:"  # and the bitmap's name

# -- transmission flags ---------------------------------------------------------------------------------------
FLAG_HAS_FLAGS = 1 << 0
FLAG_READ_ONLY = 1 << 1
FLAG_SEND_FLUSH = 1 << 2
FLAG_SEND_FUA = 1 << 3
FLAG_ROTATIONAL = 1 << 4
FLAG_SEND_TRIM = 1 << 5
FLAG_SEND_WRITE_ZEROES = 1 << 6
FLAG_SEND_DF = 1 << 7
FLAG_CAN_MULTI_CONN = 1 << 8
FLAG_SEND_RESIZE = 1 << 9
FLAG_SEND_CACHE = 1 << 10
FLAG_SEND_FAST_ZERO = 1 << 11
FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12

# -- requests -------------------------------------------------------------------------------------------------
REQUEST_MAGIC = 0x25609513
EXTENDED_REQUEST_MAGIC = 0x21E41C71

REQUEST = Struct(">IHHQQI")  # REQUEST_MAGIC, flags, command, cookie, offset, length
EXTENDED_REQUEST = Struct(">IHHQQQ")  # EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length

CMD_READ = 0
CMD_WRITE = 1
CMD_DISC = 2
CMD_FLUSH = 3
CMD_TRIM = 4
CMD_CACHE = 5
CMD_WRITE_ZEROES = 6
CMD_BLOCK_STATUS = 7
CMD_RESIZE = 8

CMD_FLAG_FUA = 1 << 0
CMD_FLAG_NO_HOLE = 1 << 1
CMD_FLAG_DF = 1 << 2
CMD_FLAG_REQ_ONE = 1 << 3
CMD_FLAG_FAST_ZERO = 1 << 4
CMD_FLAG_PAYLOAD_LEN = 1 << 5  # extended headers: `length` counts bytes that follow; a write must have it

# -- replies --------------------------------------------------------------------------------------------------
SIMPLE_REPLY_MAGIC = 0x67446698
STRUCTURED_REPLY_MAGIC = 0x668E33EF
EXTENDED_REPLY_MAGIC = 0x6E8A278C

SIMPLE_REPLY = Struct(">IIQ")  # SIMPLE_REPLY_MAGIC, error, cookie; after a good read its data follow
STRUCTURED_REPLY = Struct(">IHHQI")  # STRUCTURED_REPLY_MAGIC, flags, type, cookie, length of the payload
EXTENDED_REPLY = Struct(">IHHQQQ")  # EXTENDED_REPLY_MAGIC, flags, type, cookie, offset of the request, length

REPLY_FLAG_DONE = 1 << 0

REPLY_TYPE_NONE = 0
REPLY_TYPE_OFFSET_DATA = 1
REPLY_TYPE_OFFSET_HOLE = 2
REPLY_TYPE_BLOCK_STATUS = 5
REPLY_TYPE_BLOCK_STATUS_EXT = 6
REPLY_TYPE_FLAG_ERROR = 1 << 15
REPLY_TYPE_ERROR = REPLY_TYPE_FLAG_ERROR + 1
REPLY_TYPE_ERROR_OFFSET = REPLY_TYPE_FLAG_ERROR + 2

OFFSET_DATA = U64  # offset; the data follow
OFFSET_HOLE = Struct(">QI")  # offset, length
BLOCK_STATUS = U32  # context id; DESCRIPTORs follow
DESCRIPTOR = Struct(">II")  # length, flags
BLOCK_STATUS_EXT = Struct(">II")  # context id, count; DESCRIPTOR_EXTs follow
DESCRIPTOR_EXT = Struct(">QQ")  # length, flags
ERROR = Struct(">IH")  # error, length of the message, which follows; of ERROR_OFFSET an U64 offset after that

STATE_HOLE = 1 << 0
STATE_ZERO = 1 << 1
STATE_DIRTY = 1 << 0  # of a dirty bitmap's context

# -- errors, whatever the numbers are on the machine at either end ----------------------------------------------
EPERM = 1
EIO = 5
ENOMEM = 12
EINVAL = 22
ENOSPC = 28
EOVERFLOW = 75
ENOTSUP = 95
ESHUTDOWN = 108

ERROR_TEXTS = {
    EPERM: "operation not permitted",
    EIO: "input/output error",
    ENOMEM: "out of memory",
    EINVAL: "invalid argument",
    ENOSPC: "no space left on device",
    EOVERFLOW: "value too large",
    ENOTSUP: "operation not supported",
    ESHUTDOWN: "the server is shutting down",
}
