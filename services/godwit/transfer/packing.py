"""Pages to fewer bytes and back: lz4 and zstd, at their fastest.

Both release the GIL. What is compressed must not change meanwhile: a compressor reads a byte again
when it looks for what repeats, and of memory that a guest writes it would make something that never
was, also of bytes beside those written. When that pays is not known here.
"""

from __future__ import annotations

import lz4.block
import zstandard

from godwit_protocol.compression import Compression
from godwit_protocol.errors import CorruptError, LocalProtocolError
from godwit_protocol.framing import Buffer

_ZSTD_LEVEL = 1


class Packer:
    """Compresses and decompresses for one thread at a time."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        self._decompressor = zstandard.ZstdDecompressor()

    def packed(self, method: Compression, data: Buffer) -> bytes:
        """``data``, which nobody writes, compressed. Raises ``LocalProtocolError`` for NONE."""
        match method:
            case Compression.LZ4:
                packed: bytes = lz4.block.compress(data, store_size=False)
                return packed
            case Compression.ZSTD:
                return self._compressor.compress(data)
            case _:
                raise LocalProtocolError("there is no compressor for no compression")

    def unpacked(self, method: Compression, packed: Buffer, byte_count: int) -> bytes:
        """The ``byte_count`` bytes that ``packed`` was made of. No more are ever allocated.

        Raises ``CorruptError`` if it was not made of so many, or not by ``method``.
        """
        try:
            data = self._decompressed(method, packed, byte_count)
        except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
            raise CorruptError(f"a frame is not what {method.value} makes: {error}") from error
        if len(data) != byte_count:
            raise CorruptError(f"a frame was made of {len(data)} bytes, not of {byte_count}")
        return data

    def _decompressed(self, method: Compression, packed: Buffer, byte_count: int) -> bytes:
        if method is Compression.LZ4:
            data: bytes = lz4.block.decompress(packed, uncompressed_size=byte_count)
            return data
        # zstandard allocates what the data says of itself, whatever it is told.
        announced = zstandard.frame_content_size(packed)
        if announced != byte_count:
            raise CorruptError(f"a frame announces {announced} bytes, not {byte_count}")
        return self._decompressor.decompress(packed, allow_extra_data=False)
