"""HRL, the log of Hyper-V Replica: what was written to a disk, as publicly specified (MS-HRL; formats section 4).

`reader` one log · `chain` logs in their order · `applied` a disk with a chain over it, as an Image · `source` that over
a replica's head, for a cycle · `writer` a new log · `export` the delta between two recovery points as a log.
"""

from __future__ import annotations

from secondsite.engine.hrl.applied import HrlOverlay, overlay
from secondsite.engine.hrl.chain import check_chain, open_chain
from secondsite.engine.hrl.reader import HrlReader
from secondsite.engine.hrl.writer import HrlWriter

__all__ = ["HrlOverlay", "HrlReader", "HrlWriter", "check_chain", "open_chain", "overlay"]
