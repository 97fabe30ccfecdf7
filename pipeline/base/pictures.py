"""Pictures of unknown origin: read and decoded within bounds of time and memory, whatever the file holds.

In:      a file, its bytes.   Out: an upright RGB picture.
Source:  ours. What would take seconds or gigabytes to decode is refused before it is decoded: by bytes, by pixels, by scans. 16-bit
         grey keeps its upper 8 bits, transparency is dropped, colour profiles are ignored. Packing and the report both decode here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import struct
import warnings
from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.base.errors import MediaError

PIXELS = 12 << 20
"""A larger picture is refused before it is decoded: a frame of a 4K camera or of a 12 Mpixel one (4096 x 3072) has no more. WebP takes
20 bytes for a pixel while it is decoded."""
BYTES = 3 * PIXELS + (1 << 16)
"""A larger file is refused: PIXELS of three bytes each, and a head."""
SCANS = 100
"""A JPEG of more scans is refused before it is decoded: encoders write some 10, and each may be a walk through all pixels."""
WORK = 25 * PIXELS
"""Most pixels times scans of a JPEG: progressive ones of four colours have 18 scans."""
PARTS = 1 << 13
"""A file of more segments, chunks or tags is refused: Pillow walks through them one by one, in Python."""
DIRECTORIES = 8
"""A TIFF of more directories is refused before they are walked through: Pillow reads at most four, and each has up to 65,535 tags."""
STRIPS = 1 << 16
"""A TIFF of more strips (or of more values in any tag) is refused: each becomes a Python object."""
EXIF_BYTES = 1 << 16
"""More EXIF is refused: its tags may all point at the same bytes, of which Pillow keeps a copy for each. JPEG's segments hold as much."""

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
"""Formats Pillow may try (JPEG includes MPO): pictures only, nothing that starts another program."""
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # one file may have thousands of odd tags; what matters is raised
Image.init()  # registers them all, once and before any thread asks; left to itself Pillow raises KeyError for some

SCAN = b"\xff\xda"
"""Begins each scan of a JPEG."""
_PIECE = 1 << 16
"""Bytes that one call reads: more than a frame of the known data sets has."""
_EOI, _SOS, _APP1 = 0xD9, 0xDA, 0xE1
_PPM = re.compile(rb"P[456](?:\s+(?:#[^\n]*\n\s*)*\d{1,9}){2,3}\s")
"""How a PPM of binary numbers begins."""
_LONGEST_HEAD = 1 << 12
"""Bytes a PPM's head may have: Pillow reads them one by one."""
TIFF_ORDER = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_UNIT = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value by its type; 1 for the others."""
_TIFF_DIRECTORIES = (0x8769, 0x8825, 0xA005)
"""Tags that point at a further directory, which Pillow reads."""
_RLE = (1, 2)
"""Compressions of BMP that Pillow undoes in Python, a few pixels at a time."""


def read(path: str) -> bytes:
    """A whole file, or as much of it as is too much for a picture (see :func:`check_bytes`); half the time of Python's own `open`,
    which asks for more than the bytes.

    Raises:
        OSError: also for a device; a named pipe is empty.
    """
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a named pipe is not waited for
    try:
        data = os.read(file, _PIECE)
        if more := os.read(file, _PIECE):  # only an empty answer says that a file has ended
            if not stat.S_ISREG(os.fstat(file).st_mode):  # a device never ends
                raise OSError(errno.EINVAL, "no regular file")
            parts = [data, more]
            most = BYTES // _PIECE + 1  # one more than is accepted, so that the excess is seen and memory stays bounded
            while len(parts) <= most and (more := os.read(file, _PIECE)):
                parts.append(more)
            data = b"".join(parts)
        return data
    finally:
        os.close(file)


def check_bytes(data: bytes) -> None:
    """Refuse a file without bytes, and one with too many.

    Raises:
        MediaError: 'empty' or 'too large'.
    """
    if not data:
        raise MediaError("empty", "the file has no bytes")
    if len(data) > BYTES:
        raise MediaError("too large", f"more than {BYTES} bytes")


def decode(data: bytes, use: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `use` makes of a picture, which it is given upright and in RGB.

    Raises:
        MediaError: reason 'empty', 'unreadable', 'truncated' or 'too large'.
    """
    check_bytes(data)
    _look(data)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_size(image, data)
            image.load()
            _upright(image)
            made = use(_rgb(image))
    except (MediaError, MemoryError):
        raise
    except UnidentifiedImageError:  # its own text holds a memory address
        raise MediaError("unreadable", f"no picture ({', '.join(FORMATS)}); {len(data)} bytes that begin with {data[:8].hex()}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise MediaError("too large", str(error)) from None
    except Exception as error:  # hostile bytes: the kinds Pillow raises are many and not documented
        reason = "truncated" if "truncated" in str(error).lower() else "unreadable"
        raise MediaError(reason, f"{type(error).__name__}: {error}".replace("\n", " ")) from None
    made.info = {}  # comments and the like would be written into the JPEG
    return made


def _look(data: bytes) -> None:
    """Refuse what Pillow would walk through in Python, piece by piece, for many seconds; looks at heads only.

    Raises:
        MediaError: 'too large' or 'unreadable'.
    """
    if data.startswith(b"\xff\xd8\xff"):
        _look_at_jpeg(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        at = 8
        for _ in range(PARTS):
            at += 12 + int.from_bytes(data[at : at + 4], "big")
            if at >= len(data):
                return
        raise MediaError("too large", f"more than {PARTS} chunks")
    elif data[:4] in TIFF_ORDER:
        _look_at_tiff(data)
    elif data[:4] in (b"II+\0", b"MM\0+"):
        raise MediaError("unreadable", "a BigTIFF; save it as TIFF or PNG")
    elif data[:1] == b"P" and not _PPM.match(data[:_LONGEST_HEAD]):
        raise MediaError("unreadable", "no PPM of binary numbers (P4, P5, P6) with a plain head")
    elif data[:2] == b"BM" and int.from_bytes(data[30:34], "little") in _RLE:
        raise MediaError("unreadable", "a BMP with run lengths; save it without compression, or as PNG")


def _look_at_jpeg(data: bytes) -> None:
    at, exif = 2, 0
    for _ in range(PARTS):
        if at + 1 >= len(data) or data[at] != 0xFF or data[at + 1] == _SOS:
            break
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker < 0xC0 or 0xD0 <= marker <= _EOI:  # a marker without a segment
            at += 2
        else:
            length = max(int.from_bytes(data[at + 2 : at + 4], "big"), 2)
            exif += length * (marker == _APP1 and data[at + 4 : at + 8] == b"Exif")
            at += 2 + length
    else:
        raise MediaError("too large", f"more than {PARTS} segments and fill bytes before the pixels")
    if exif > EXIF_BYTES:
        raise MediaError("too large", f"{exif} bytes of EXIF, at most {EXIF_BYTES}")


def _look_at_tiff(data: bytes) -> None:
    """Tags may claim any number of values, all point at the same bytes, or at further directories: what they claim is added up."""
    order, claimed, entries = TIFF_ORDER[data[:4]], 0, 0
    directories = [int.from_bytes(data[4:8], "little" if order == "<" else "big")]
    for first in directories:
        (count,) = struct.unpack_from(order + "H", data, first) if first + 2 <= len(data) else (0,)
        entries += count
        if entries > PARTS:
            raise MediaError("too large", f"more than {PARTS} tags in the TIFF")
        for entry in range(first + 2, min(first + 2 + 12 * count, len(data) - 11), 12):
            tag, kind, values, offset = struct.unpack_from(order + "HHII", data, entry)
            unit = _TIFF_UNIT.get(kind, 1)
            claimed += values * unit
            if unit > 1 and values > STRIPS:
                raise MediaError("too large", f"tag {tag} of the TIFF claims {values} values, at most {STRIPS}")
            if claimed > len(data):
                raise MediaError("unreadable", f"the tags of the TIFF claim {claimed} bytes or more, the file has {len(data)}")
            if tag in _TIFF_DIRECTORIES and offset not in directories:
                directories.append(offset)
                if len(directories) > DIRECTORIES:
                    raise MediaError("too large", f"more than {DIRECTORIES} directories in the TIFF")


def _check_size(image: Image.Image, data: bytes) -> None:
    """Refuse a picture whose decoding would take too much memory or time."""
    pixels = image.width * image.height
    if pixels > PIXELS:
        raise MediaError("too large", f"{image.width} x {image.height} pixels, at most {PIXELS} in all")
    if image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg":
        # In coded data no such bytes occur; thumbnails and further pictures in the file are counted, too, which the bounds allow for.
        scans, most = data.count(SCAN), min(SCANS, max(WORK // max(pixels, 1), 1))
        if scans > most:
            raise MediaError("too large", f"{scans} scans of {image.width} x {image.height} pixels, at most {most}")


def _upright(image: Image.Image) -> None:
    if len(exif := image.info.get("exif", b"")) > EXIF_BYTES:
        raise MediaError("too large", f"{len(exif)} bytes of EXIF, at most {EXIF_BYTES}")
    # a block of EXIF that cannot be read says nothing about the pixels, which are good
    with contextlib.suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)  # a large picture is not held twice


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MediaError("unreadable", f"pixels of mode {image.mode} have no known range; expected 8 or 16 bit")
    return image if image.mode == "RGB" else image.convert("RGB")
