"""The digests of the data plane. Knows nothing of rounds or of memory.

Of one connection's frames, taken while their bytes are in the processor's cache: XXH3-128, seeded
with the session. It misses one accident (a flipped bit, a page in another's place, a frame of
another migration) in 2**128, at the price of copying the bytes once. It is no defence against who
forges: the link's token is.

Of a chunk, by which content is shared between machines: BLAKE3, which nobody can forge.
"""

from __future__ import annotations

import time
from typing import Final

import xxhash
from blake3 import blake3

from godwit_protocol.bulk import BulkLink
from godwit_protocol.framing import Buffer

PIECE_BYTES: Final = 256 * 1024
"""What is digested at a time: it stays in the cache between the digest and the socket."""


def chunk_digest(chunk: Buffer) -> bytes:
    """The ``CHUNK_DIGEST_BYTES`` of a chunk's content. Releases the GIL; on this thread alone."""
    return blake3(chunk, max_threads=1).digest()


class FrameDigest:
    """Digests one frame after the other. Used by one thread at a time."""

    def __init__(self, link: BulkLink) -> None:
        self.duration_ns = 0
        """What it has taken so far."""
        self._hash = xxhash.xxh3_128(seed=int.from_bytes(link.session, "little"))

    def add(self, data: Buffer) -> None:
        """The frame goes on with ``data``. Releases the GIL for a whole piece."""
        started_ns = time.monotonic_ns()
        self._hash.update(data)
        self.duration_ns += time.monotonic_ns() - started_ns

    def taken(self) -> int:
        """The frame's digest, 128 bits. The next frame begins."""
        digest = self._hash.intdigest()
        self._hash.reset()
        return digest
