"""Whether a PNG or JPEG holds all of its picture: a decoder fills up what is missing with grey.

Bytes may follow the picture: phones keep a film behind a JPEG, tools leave notes behind a PNG.
"""

import re

_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# In the data of a scan 0xFF is followed by zero, or by one of the eight marks to restart at.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_END = 0xD9


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
