"""An exported log as a Parquet file: one row a message, for tools that read tables.

The columns of an event's envelope stand beside its stored bytes; a reader makes all of the bytes,
and nothing of the columns. Needs pyarrow, which is an extra (``godwit[parquet]``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from godwit_protocol import codec
from godwit_protocol.errors import CorruptError, GodwitError, InvalidInputError
from godwit_protocol.events import Envelope
from godwit_protocol.replay import lines
from godwit_protocol.stored import Stored

MAGIC: Final = b"PAR1"
SUFFIX: Final = ".parquet"
ROWS_AT_ONCE: Final = 10_000
"""So many rows are held in memory, on either way."""
_HEAD_KEY: Final = b"godwit_log"
_OF_ENVELOPE: Final = {
    "id": "string",
    "type": "string",
    "schema": "int32",
    "migration": "string",
    "machine": "string",
    "lane": "string",
    "lane_sequence": "int64",
    "host": "string",
    "epoch": "int64",
    "correlation": "string",
    "causation": "string",
    "wall_ns": "int64",
    "monotonic_ns": "int64",
    "boot": "string",
    "life": "string",
}
"""Columns that are null where a message is no event."""
_OF_MESSAGE: Final = ("subject", "sequence", "time_ns", "data")


class ParquetWriter:
    """Writes a file. ``close`` it: until then it is none."""

    def __init__(self, path: Path, of: str = "") -> None:
        """``of``: a migration's id. Raises ``InvalidInputError`` without pyarrow, ``OSError``."""
        pa, pq = _pyarrow()
        self._pa = pa
        self._schema = _schema(pa, lines.encode_head(of))
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[dict[str, Any]] = []

    def add(self, message: Stored) -> None:
        """Write one more message."""
        self._rows.append(_row(message))
        if len(self._rows) >= ROWS_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what is left, and the end. Raises ``OSError``."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows = []


def read_head(path: Path) -> lines.FileHead:
    """What the file is. Raises ``CorruptError``, ``InvalidInputError`` without pyarrow."""
    _, pq = _pyarrow()
    try:
        found = pq.read_schema(path).metadata or {}
    except (OSError, ValueError) as error:
        raise CorruptError(f"{path} cannot be read: {error}") from error
    return lines.decode_head(found.get(_HEAD_KEY, b""))


def read_messages(path: Path) -> Iterator[Stored]:
    """All messages of the file, in its order. Raises as ``read_head``."""
    _, pq = _pyarrow()
    try:
        with pq.ParquetFile(path) as file:
            columns = [*_OF_MESSAGE, "headers"]
            for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=columns):
                for row in batch.to_pylist():
                    yield _message(row)
    except GodwitError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{path} cannot be read: {error}") from error


def _message(row: dict[str, Any]) -> Stored:
    return Stored(**{name: row[name] for name in _OF_MESSAGE}, headers=dict(row["headers"] or ()))


def _row(message: Stored) -> dict[str, Any]:
    envelope = _envelope(message)
    told = {name: getattr(envelope, name) for name in _OF_ENVELOPE} if envelope else {}
    return {
        **{name: getattr(message, name) for name in _OF_MESSAGE},
        "headers": list(message.headers.items()),
        **told,
    }


def _envelope(message: Stored) -> Envelope | None:
    try:
        return codec.decode(message.data, message.sequence).envelope
    except CorruptError:
        return None


def _schema(pa: Any, head: bytes) -> Any:
    text = pa.string()
    fields = [
        pa.field("subject", text, nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("time_ns", pa.int64(), nullable=False),
        *(pa.field(name, getattr(pa, kind)()) for name, kind in _OF_ENVELOPE.items()),
        pa.field("headers", pa.map_(text, text)),
        pa.field("data", pa.binary(), nullable=False),
    ]
    return pa.schema(fields, metadata={_HEAD_KEY: head})


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise InvalidInputError(
            "Parquet files need pyarrow, which is not here", hint="pip install 'godwit[parquet]'"
        ) from error
    return pa, pq
