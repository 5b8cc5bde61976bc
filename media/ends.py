"""What the markers of a PNG or JPEG say: its kind, and whether it holds all of its picture.

A decoder fills up what is missing with grey. Bytes may follow the picture: phones keep a film
behind a JPEG, tools leave notes behind a PNG.
"""

import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8"
# In the data of a scan 0xFF is followed by zero, or by one of the eight marks to restart at.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_END = 0xD9
# Start-of-frame markers; C4, C8 and CC in their range mean something else.
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def has_end(content: bytes) -> bool:
    """Whether a PNG or JPEG, from its bytes, reaches its end marker; True for anything else."""
    if content.startswith(PNG_MAGIC):
        return any(kind == b"IEND" for kind, _, _ in png_chunks(content))
    if not content.startswith(JPEG_MAGIC):
        return True
    position = 2
    while marker := _JPEG_MARKER.search(content, position):
        if content[marker.end() - 1] == _JPEG_END:
            return True
        # A segment says how long it is, and may hold a small picture with an end of its own.
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return False


def is_animation(content: bytes) -> bool:
    """Whether a file is a PNG of several frames, of which OpenCV decodes any."""
    if content.startswith(PNG_MAGIC):
        for kind, body, _ in png_chunks(content):
            if kind in (b"acTL", b"IDAT"):  # behind the picture it would mean nothing
                return kind == b"acTL" and int.from_bytes(body[:4], "big") > 1
    return False


def png_frame(content: bytes) -> tuple[int, int, int, int]:
    """Bits, height, width and colour type of a PNG, by its first 33 bytes.

    Raises:
        ValueError: there is no such header, and why.
    """
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise ValueError("no header")
    if zlib.crc32(content[12:29]) != int.from_bytes(content[29:33], "big"):
        raise ValueError("header checksum")
    width, height, bits, colour = struct.unpack(">IIBB", content[16:26])
    return bits, height, width, colour


def jpeg_frame(file: BinaryIO) -> tuple[int, int, int, int]:
    """Bits, height, width and channels of a JPEG, by as few of its bytes as possible.

    Raises:
        ValueError: there is no such header, and why.
    """
    file.seek(2)
    while True:
        marker = file.read(2)
        while len(marker) == 2 and marker[0] == 0xFF and marker[1] == 0xFF:
            marker = marker[1:] + file.read(1)
        length = file.read(2)
        if len(marker) < 2 or marker[0] != 0xFF or len(length) < 2:
            raise ValueError("no frame header")
        size = int.from_bytes(length, "big")
        if size < 2:
            raise ValueError("segment of no length")
        if marker[1] not in _JPEG_FRAMES:
            file.seek(size - 2, os.SEEK_CUR)
            continue
        frame = file.read(6)
        if len(frame) < 6:
            raise ValueError("truncated")
        return struct.unpack(">BHHB", frame)


def png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, bytes]]:
    """The chunks of a PNG: kind, body and checksum; the last ones may be cut short."""
    position = len(PNG_MAGIC)
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        kind, body = content[position + 4 : position + 8], memoryview(content)[position + 8 : end]
        yield kind, body, content[end : end + 4]
        position = end + 4
