"""What the markers of a PNG or JPEG say: its kind, and whether it holds all of its picture.

A decoder fills up what is missing with grey. Bytes may follow the picture: phones keep a film
behind a JPEG, tools leave notes behind a PNG.
"""

import os
import re
import struct
from typing import BinaryIO

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# In the data of a scan 0xFF is followed by zero, or by one of the eight marks to restart at.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_END = 0xD9
# Start-of-frame markers; C4, C8 and CC in their range mean something else.
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def has_end(content: bytes) -> bool:
    """Whether a PNG or JPEG reaches its end marker; True for anything else.

    Arguments:
        content: the bytes of the file.
    """
    if content.startswith(_PNG_MAGIC):
        return _png_ends(content)
    if content.startswith(b"\xff\xd8"):
        return _jpeg_ends(content)
    return True


def _png_ends(content: bytes) -> bool:
    position = len(_PNG_MAGIC)
    while position + 12 <= len(content):
        if content[position + 4 : position + 8] == b"IEND":
            return True
        position += 12 + int.from_bytes(content[position : position + 4], "big")
    return False


def _jpeg_ends(content: bytes) -> bool:
    position = 2
    while marker := _JPEG_MARKER.search(content, position):
        if content[marker.end() - 1] == _JPEG_END:
            return True
        # A segment says how long it is, and may hold a small picture with an end of its own.
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return False


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
