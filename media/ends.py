"""Whether a PNG or JPEG holds all of its picture: a decoder fills up what is missing with grey.

Bytes may follow the picture: phones keep a film behind a JPEG, tools leave notes behind a PNG.
"""

import re
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
# In the data of a scan 0xFF is followed by zero, or by one of the eight marks to restart at.
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_JPEG_END = 0xD9


def has_end(content: bytes) -> bool:
    """Whether a PNG or JPEG, from its bytes, reaches its end marker; True for anything else."""
    if content.startswith(PNG_MAGIC):
        return any(kind == b"IEND" for kind, _, _ in png_chunks(content))
    if not content.startswith(b"\xff\xd8"):
        return True
    position = 2
    while marker := _JPEG_MARKER.search(content, position):
        if content[marker.end() - 1] == _JPEG_END:
            return True
        # A segment says how long it is, and may hold a small picture with an end of its own.
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return False


def png_chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, bytes]]:
    """The chunks of a PNG: kind, body and checksum; the last ones may be cut short."""
    position = len(PNG_MAGIC)
    while position + 12 <= len(content):
        end = position + 8 + int.from_bytes(content[position : position + 4], "big")
        kind, body = content[position + 4 : position + 8], memoryview(content)[position + 8 : end]
        yield kind, body, content[end : end + 4]
        position = end + 4
