"""Reading and writing of 8-bit RGB frames, strictly: what is not one is refused by name.

A frame that is silently reduced from 16 bits, stretched from grey or half decoded would spoil
training and metrics without a trace, so nothing is converted here. Sizes are read from the header
before any pixel is decoded.
"""

import io
import os
import stat
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import tifffile

from media.ends import PNG_MAGIC, has_end, is_animation, jpeg_frame, png_chunks, png_frame
from media.folder import decode, read_image_file
from utils.files import beside, replace

# Largest frame that is decoded, in pixels: 400 MB of RGB. A few kilobytes of PNG can claim more.
MAX_PIXELS = 2**27
MAX_BYTES = 4 * MAX_PIXELS  # of a file that is read
WRITTEN_SUFFIXES = (".png", ".jpg", ".jpeg")

_JPEG_MAGIC = b"\xff\xd8\xff"
_BMP_MAGIC = b"BM"
_TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_COLOURS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}


def _refuse(path, problem, remedy):
    raise ValueError(f"{path}: {problem}; {remedy}")


def _broken(path, problem):
    _refuse(path, problem, "restore or remove the file")


def _header(path, file, magic):
    """What `png_frame` or `jpeg_frame` reads of an open file."""
    is_png = magic.startswith(PNG_MAGIC)
    file.seek(0)
    try:
        return png_frame(file.read(33)) if is_png else jpeg_frame(file)
    except ValueError as error:
        _broken(path, f"damaged {'PNG' if is_png else 'JPEG'} ({error})")


def _png_size(path, file):
    depth, height, width, colour = _header(path, file, PNG_MAGIC)
    kind = _PNG_COLOURS.get(colour, f"colour type {colour}")
    if colour != 2 or depth != 8:
        _refuse(path, f"{depth}-bit {kind} PNG", "convert it to 8-bit RGB without alpha")
    return height, width


def _jpeg_size(path, file):
    depth, height, width, channels = _header(path, file, _JPEG_MAGIC)
    if depth != 8 or channels != 3:
        _refuse(path, f"{depth}-bit JPEG of {channels} channel(s)", "convert it to 8-bit RGB")
    return height, width


def _bmp_size(path, head):
    if len(head) < 30:
        _broken(path, "damaged BMP (no header)")
    width, height, bits = struct.unpack("<iixxH", head[18:30])
    if bits != 24:
        _refuse(path, f"{bits}-bit BMP", "convert it to 24-bit RGB")
    return abs(height), width  # below zero where its rows go down


def _tiff_size(path, file):
    file.seek(0)
    try:
        with tifffile.TiffFile(file) as tiff:
            page = tiff.pages[0]
            size, bits, samples = page.shape, page.bitspersample, page.samplesperpixel
            height, width = page.imagelength, page.imagewidth
    except OSError:
        raise
    except Exception as error:  # a damaged header may raise anything
        _broken(path, f"damaged TIFF ({error})")
    if bits != 8 or samples != 3 or len(size) != 3:
        remedy = "convert it to 8-bit RGB, or let `python -m data.septuplets cut` do so"
        _refuse(path, f"{bits}-bit TIFF of {samples} band(s)", remedy)
    return height, width


def claimed_frame(path, content):
    """(bits of a value, height, width) that a PNG or JPEG of these bytes claims, else zeros.

    `path` is named in the ValueError for a damaged header.
    """
    if not content.startswith((PNG_MAGIC, _JPEG_MAGIC)):
        return 0, 0, 0
    return _header(path, io.BytesIO(content), content[: len(PNG_MAGIC)])[:3]


def _read_size(path, file):
    """`image_size` of an open file."""
    head = file.read(33)
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 1024, 0))
    tail = file.read(1024)
    complete = True
    if head.startswith(PNG_MAGIC):
        height, width = _png_size(path, file)
        complete = b"IEND" in tail
    elif head.startswith(_JPEG_MAGIC):
        height, width = _jpeg_size(path, file)
        complete = b"\xff\xd9" in tail
    elif head.startswith(_BMP_MAGIC):
        height, width = _bmp_size(path, head)
        complete = end >= 3 * height * width
    elif head.startswith(_TIFF_MAGICS):
        height, width = _tiff_size(path, file)
    else:
        problem = "neither PNG, JPEG, BMP nor TIFF" if head else "empty file"
        _refuse(path, problem, "give 8-bit RGB PNG frames")
    if not complete and not head.startswith(_BMP_MAGIC):
        file.seek(0)
        complete = has_end(file.read())
    if height <= 0 or width <= 0:
        _broken(path, f"image of {width}x{height} pixels")
    if height * width > MAX_PIXELS:
        _refuse(path, f"{width}x{height} pixels, over the limit of {MAX_PIXELS}", "cut it smaller")
    if not complete:
        _broken(path, "truncated image")
    return height, width


def check_regular(path, max_bytes=MAX_BYTES):
    """Raise a ValueError for a file over `max_bytes`, or a pipe or device, which may never end."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        _refuse(path, "not a regular file", "give an image file")
    if status.st_size > max_bytes:
        _broken(path, f"{status.st_size} bytes, more than any image")


def _open(path):
    check_regular(path)
    return open(path, "rb", buffering=0)  # a few bytes are read of each of very many files


def image_size(path):
    """Size (height, width) of a frame in pixels by its header, without decoding it.

    Arguments:
        path: a PNG, JPEG, BMP or TIFF file; the content decides, not the suffix.

    Raises: ValueError: not an 8-bit RGB image of these, truncated, or more than MAX_PIXELS.
    """
    with _open(path) as file:
        return _read_size(path, file)


def _check_png_chunks(path, content):
    """Checksums of all chunks, so that damage is named here and not painted by the decoder."""
    for kind, body, checksum in png_chunks(content):
        if len(checksum) < 4:
            break
        if zlib.crc32(body, zlib.crc32(kind)) != int.from_bytes(checksum, "big"):
            _broken(path, "damaged PNG (checksum)")
        if kind == b"IEND":
            return
    _broken(path, "truncated PNG")


def decode_image(path, content):
    """`read_image` of a file whose bytes are read already."""
    _read_size(path, io.BytesIO(content))
    if content.startswith(PNG_MAGIC):
        _check_png_chunks(path, content)
    if is_animation(content):
        _refuse(path, "an animated PNG", "make each of its frames a file")
    if content.startswith(_TIFF_MAGICS):
        image = np.ma.filled(read_image_file(Path(path)), 0)
    else:
        image = decode(content)
    if image is None:
        _broken(path, "image cannot be decoded")
    if image.dtype != np.uint8 or image.shape[2:] != (3,):
        # A transparent colour beside RGB (tRNS) is decoded as a fourth channel.
        _refuse(path, "not plain 8-bit RGB", "convert it to 8-bit RGB without alpha")
    return image


def read_image(path):
    """Read a frame, an 8-bit RGB PNG, JPEG, BMP or TIFF file, as uint8 (H, W, 3).

    Raises: ValueError: 16-bit, grey, palette or alpha, damaged, truncated, or over MAX_PIXELS.
    """
    path = Path(path)
    with _open(path) as file:
        return decode_image(path, file.read())


def write_image(path, image):
    """Write one frame; the file appears whole or not at all.

    Arguments:
        path: file to write, .png (lossless) or .jpg; an existing one is replaced.
        image: uint8 array (H, W, 3), RGB; ValueError for another type or shape, or another suffix.
    """
    path = Path(path)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"{path}: needs uint8 (H, W, 3), not {image.dtype} {image.shape}")
    if path.suffix.lower() not in WRITTEN_SUFFIXES:
        raise ValueError(f"{path}: frames are written as {', '.join(WRITTEN_SUFFIXES)}")
    encoded = cv2.imencode(path.suffix.lower(), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
    partial = beside(path)
    try:
        partial.write_bytes(encoded)
        replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
