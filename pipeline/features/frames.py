"""The pack-time half of frames: one picture as shipped -> one JPEG of the stored size.

In:      bytes of a picture file.   Out: bytes of a JPEG of exactly height x width, and whether it had to be made.
Source:  decisions.md (frames in a sample). A JPEG that already is what a shard holds is taken byte for byte and never
         decoded: baseline or progressive, 8 bit, three components, exactly height x width, upright (no EXIF orientation
         other than 1), one image that ends with the file. Anything else that Pillow can read is turned upright, converted
         to RGB, resized (bicubic) and encoded once.

What would take seconds or gigabytes to decode is refused before it is decoded: by size, by pixels, by scans (`BYTES` and what follows).

Ours, where nothing was written: a JPEG with bytes after its end is encoded again, because such bytes would break the
stream of JPEGs it becomes part of. 16-bit grey keeps its upper 8 bits. Transparency is dropped. Colour profiles are ignored.
What nobody decodes nobody can doubt: damage inside the coded data of a JPEG that is taken as it is shows in the loader only, unless
`frames.check` has every frame decoded here. What JPEG decoders forgive (they fill in grey and go on) no check finds.
"""

from __future__ import annotations

import re
import struct
import warnings
from io import BytesIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from pipeline.base.config import FramesConfig
from pipeline.base.errors import MediaError

BYTES = 1 << 25
"""A larger file is refused: PIXELS of four bytes each."""
PIXELS = 1 << 23
"""A larger picture is refused before it is decoded: a crop of a person has fewer pixels than a whole 4K frame, and a bomb more."""
SCANS = 100
"""A JPEG of more scans is refused before it is decoded: encoders write some 10, and each may be a walk through all pixels."""
WORK = 1 << 28
"""Most pixels times scans of a JPEG: 32 walks through PIXELS."""
PARTS = 1 << 13
"""A file of more segments or chunks is refused: Pillow walks through them one by one, in Python."""
STRIPS = 1 << 16
"""A TIFF of more strips (or of more values in any tag) is refused: each becomes a Python object."""
EXIF_BYTES = 1 << 16
"""More EXIF is refused: its tags may all point at the same bytes, of which Pillow keeps a copy for each. JPEG's segments hold as much."""

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "TIFF", "WEBP")
"""Formats Pillow may try (JPEG includes MPO): pictures only, nothing that starts another program."""
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")  # one file may have thousands of odd tags; what matters is raised
Image.init()  # registers them all, once and before any thread asks; left to itself Pillow raises KeyError for some

SUBSAMPLING = "4:2:0"
"""Chroma of JPEGs made here, as in the data sets as shipped."""

_PPM = re.compile(rb"P[456](?:\s+(?:#[^\n]*\n\s*)*\d{1,9}){2,3}\s")
"""How a PPM of binary numbers begins."""
_LONGEST_HEAD = 1 << 12
"""Bytes a PPM's head may have: Pillow reads them one by one."""
_TIFF_ORDER = {b"II*\0": "<", b"MM\0*": ">"}
_TIFF_UNIT = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of a value by its type; 1 for the others."""
_TIFF_DIRECTORIES = (0x8769, 0x8825, 0xA005)
"""Tags that point at a further directory, which Pillow reads."""
_RLE = (1, 2)
"""Compressions of BMP that Pillow undoes in Python, a few pixels at a time."""
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Next marker in entropy-coded data: not a stuffed zero, not a restart, not a fill byte."""
_SOF0, _SOF2, _SOI, _EOI, _SOS, _APP1 = 0xC0, 0xC2, 0xD8, 0xD9, 0xDA, 0xE1
_SCAN = b"\xff\xda"
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_NEEDED = {0xC4, 0xDB, _SOS}
"""Segments without which nothing can be decoded: Huffman tables, quantisation tables, a scan."""
_ORIENTATION = 0x0112


def encode(data: bytes, config: FramesConfig) -> tuple[bytes, bool]:
    """One stored frame.

    Args:
        data: a picture file.
        config: height, width and quality.

    Returns:
        JPEG bytes, and whether they were made here (False: they are `data` itself). Equal inputs give equal bytes.

    Raises:
        MediaError: reason 'empty', 'unreadable', 'truncated' or 'too large'.
    """
    if not data:
        raise MediaError("empty", "the file has no bytes")
    if len(data) > BYTES:
        raise MediaError("too large", f"more than {BYTES} bytes")
    if is_stored_form(data, config.height, config.width):
        if config.check:
            _decode(data, (config.width, config.height))
        return data, False
    out = BytesIO()
    _decode(data, (config.width, config.height)).save(out, "JPEG", quality=config.quality, subsampling=SUBSAMPLING)
    return out.getvalue(), True


def is_stored_form(data: bytes, height: int, width: int) -> bool:
    """Whether `data` is a JPEG that is taken byte for byte; looks at markers only.

    Frames of one camera have one head (tables, size), so the head that was accepted last is compared before it is walked
    through: 2 microseconds instead of 6. The answer is that of :func:`_walk` in any case.
    """
    if len(data) > BYTES:
        return False
    head = _accepted.get((height, width), b"")
    if head and data.startswith(head):
        found = _MARKER.search(data, len(head))
        if found is not None and found.start() == len(data) - 2 and data.endswith(b"\xff\xd9"):
            return True
    coded = _walk(data, height, width)
    if coded:
        _accepted[height, width] = data[:coded]
    return coded is not None


_accepted: dict[tuple[int, int], bytes] = {}
"""By height and width: what came before the coded data of the JPEG that was accepted last."""


def _walk(data: bytes, height: int, width: int) -> int | None:
    """Where the coded data of the last scan begin if they end with the file, else 0; None: not in stored form."""
    if data[:2] != b"\xff\xd8" or data[-2:] != b"\xff\xd9":
        return None
    at, end = 2, len(data) - 2
    seen: set[int] = set()
    coded = 0
    for _ in range(PARTS):
        if at >= end:
            break
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF:  # fill byte
            at += 1
            continue
        if marker in (_SOI, _EOI) or marker < 0xC0 or 0xD0 <= marker <= 0xD7:
            return None  # an end before the end of the file, or a marker that stands nowhere between segments
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        body, after = at + 4, at + 2 + length
        if length < 2 or after > end:
            return None
        if marker in _FRAME_HEADERS:
            if seen & _FRAME_HEADERS or marker not in (_SOF0, _SOF2) or data[body : body + 6] != struct.pack(">BHHB", 8, height, width, 3):
                return None
        elif marker == _APP1 and data[body : body + 6] == b"Exif\0\0" and _orientation(data[body + 6 : after]) != 1:
            return None
        elif marker == _SOS:
            found = _MARKER.search(data, after)
            if found is None or not seen & _FRAME_HEADERS:
                return None
            coded, after = after, found.start()
        seen.add(marker)
        at = after
    if at != end or not seen >= _NEEDED or data.count(_SCAN) > SCANS:
        return None
    return coded if marker == _SOS else 0


def _orientation(tiff: bytes) -> int:
    """The orientation 1..8 of an EXIF block; 1 if it has none, 0 if the block cannot be read."""
    order = _TIFF_ORDER.get(tiff[:4])
    if order is None:
        return 0
    try:
        (first,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, entry)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 0
    except struct.error:
        return 0
    return 1


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
    elif data[:4] in _TIFF_ORDER:
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
    """Tags may claim any number of values, and all point at the same bytes: what they claim is added up."""
    order, claimed = _TIFF_ORDER[data[:4]], 0
    directories = [int.from_bytes(data[4:8], "little" if order == "<" else "big")]
    for first in directories:
        (count,) = struct.unpack_from(order + "H", data, first) if first + 2 <= len(data) else (0,)
        for entry in range(first + 2, min(first + 2 + 12 * count, len(data) - 11), 12):
            tag, kind, values, offset = struct.unpack_from(order + "HHII", data, entry)
            unit = _TIFF_UNIT.get(kind, 1)
            claimed += values * unit
            if unit > 1 and values > STRIPS:
                raise MediaError("too large", f"tag {tag} of the TIFF claims {values} values, at most {STRIPS}")
            if tag in _TIFF_DIRECTORIES and offset not in directories:
                directories.append(offset)
    if claimed > len(data):
        raise MediaError("unreadable", f"the tags of the TIFF claim {claimed} bytes, the file has {len(data)}")


def _check_size(image: Image.Image, data: bytes) -> None:
    """Refuse a picture whose decoding would take too much memory or time."""
    pixels = image.width * image.height
    if pixels > PIXELS:
        raise MediaError("too large", f"{image.width} x {image.height} pixels, at most {PIXELS} in all")
    if image.format in ("JPEG", "MPO") or image.info.get("compression") == "jpeg":
        # In coded data no such bytes occur; thumbnails and further pictures in the file are counted, too, which the bounds allow for.
        scans, most = data.count(_SCAN), min(SCANS, max(WORK // max(pixels, 1), 1))
        if scans > most:
            raise MediaError("too large", f"{scans} scans of {image.width} x {image.height} pixels, at most {most}")


def _decode(data: bytes, size: tuple[int, int]) -> Image.Image:
    """An upright RGB picture of `size` (width, height)."""
    _look(data)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _check_size(image, data)
            image.load()
            upright = _upright(image)
            made = _rgb(upright).resize(size, Image.Resampling.BICUBIC)
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


def _upright(image: Image.Image) -> Image.Image:
    if len(exif := image.info.get("exif", b"")) > EXIF_BYTES:
        raise MediaError("too large", f"{len(exif)} bytes of EXIF, at most {EXIF_BYTES}")
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # a block of EXIF that cannot be read says nothing about the pixels, which are good
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise MediaError("unreadable", f"pixels of mode {image.mode} have no known range; expected 8 or 16 bit")
    return image.convert("RGB")
