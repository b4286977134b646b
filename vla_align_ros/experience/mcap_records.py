"""An mcap file -> its schemas, channels and messages, from the start to the end: no index is asked, damage is said."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import BinaryIO, Final

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import SeekingReader
from mcap.records import Channel, Chunk, McapRecord, Message, Schema
from mcap.stream_reader import breakup_chunk
from mcap.summary import Summary

MAGIC: Final = b"\x89MCAP0\r\n"
_HEAD: Final = struct.Struct("<BQ")  # opcode, length
_WANTED: Final = {Opcode.SCHEMA, Opcode.CHANNEL, Opcode.MESSAGE, Opcode.CHUNK}

Lose = Callable[[str], None]  # is told in words what cannot be read


def summary_of(stream: BinaryIO) -> Summary:
    """The summary at the end of the file; an empty one where there is none or it is damaged."""
    try:
        return SeekingReader(stream).get_summary() or Summary()
    except Exception:  # noqa: BLE001 - mcap lets many kinds out of damaged bytes; the summary only helps
        return Summary()


def whole_records(stream: BinaryIO, size_bytes: int, lose: Lose) -> Iterator[McapRecord]:
    """Schemas, channels and messages, of chunks too, as far as the file is whole. `stream` stands behind the magic."""
    damaged: list[int] = []
    damage = ""
    for position, opcode, body, followed in _frames(stream, size_bytes, lose):
        try:
            records, checked = _parsed(opcode, body)
            if not checked and not followed:
                raise ValueError("the file ends in zeros, perhaps from within this record on")
        except Exception as error:  # noqa: BLE001 - mcap, lz4 and zstd let many kinds out of damaged bytes
            damaged.append(len(body))
            damage = damage or f"the first at byte {position}: {error!r}"
        else:
            yield from records
    if damaged:
        lose(f"{len(damaged)} parts of it, {sum(damaged)} bytes together, are damaged ({damage})")


def _frames(stream: BinaryIO, size_bytes: int, lose: Lose) -> Iterator[tuple[int, int, bytes, bool]]:
    """Position, opcode and bytes of every record up to the end of the data, and whether another one follows it."""
    position = stream.tell()
    head = stream.read(_HEAD.size)
    while len(head) == _HEAD.size:
        opcode, length = _HEAD.unpack(head)
        end = position + _HEAD.size + length
        if opcode in (Opcode.DATA_END, Opcode.FOOTER):
            return
        if opcode == 0 or end > size_bytes:  # space that was never written to, or the end is missing
            break
        body = stream.read(length) if opcode in _WANTED else b""
        stream.seek(end)
        head = stream.read(_HEAD.size)
        if body:
            yield position, opcode, body, not head.startswith(b"\0")
        position = end
    rest = size_bytes - position
    text = f"the last {rest} of {size_bytes} bytes are no whole record" if rest else "the file was not closed"
    lose(f"{text}: a recorder that was killed, is still at work, or lost power; what it held in memory is lost")


def _parsed(opcode: int, body: bytes) -> tuple[list[McapRecord], bool]:
    """One record, or what is in a chunk, and whether a checksum or compression tells that its bytes are right."""
    stream = ReadDataStream(BytesIO(body))
    if opcode == Opcode.CHUNK:
        chunk = Chunk.read(stream)
        return breakup_chunk(chunk, validate_crc=True), bool(chunk.uncompressed_crc or chunk.compression)
    if opcode == Opcode.MESSAGE:
        return [Message.read(stream, len(body))], False
    return [Schema.read(stream) if opcode == Opcode.SCHEMA else Channel.read(stream)], False
