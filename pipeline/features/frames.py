"""The pack-time half of frames: one picture as shipped -> one JPEG of the stored size.

In:      bytes of a picture file.   Out: bytes of a JPEG of exactly height x width, and whether it had to be made.
Source:  decisions.md (frames in a sample). A JPEG that already is what a shard holds is taken byte for byte and never
         decoded: baseline or progressive, 8 bit, three components, exactly height x width, upright (no EXIF orientation
         other than 1), one image that ends with the file. Anything else that Pillow can read is turned upright, converted
         to RGB, resized (bicubic) and encoded once.

What would take seconds or gigabytes to decode is refused before it is decoded (`pipeline.base.pictures`).

Ours, where nothing was written: a JPEG with bytes after its end is encoded again, because such bytes would break the
stream of JPEGs it becomes part of. 16-bit grey keeps its upper 8 bits. Transparency is dropped. Colour profiles are ignored.
What nobody decodes nobody can doubt: damage inside the coded data of a JPEG that is taken as it is shows in the loader only, unless
`frames.check` has every frame decoded here. What JPEG decoders forgive (they fill in grey and go on) no check finds.
"""

from __future__ import annotations

import re
import struct
from io import BytesIO

from PIL import Image

from pipeline.base import pictures
from pipeline.base.config import FramesConfig

SUBSAMPLING = "4:2:0"
"""Chroma of JPEGs made here, as in the data sets as shipped."""

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""Next marker in entropy-coded data: not a stuffed zero, not a restart, not a fill byte."""
_SOF0, _SOF2, _SOI, _EOI, _SOS, _APP1 = 0xC0, 0xC2, 0xD8, 0xD9, 0xDA, 0xE1
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
    pictures.check_bytes(data)
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
    if len(data) > pictures.BYTES:
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
    for _ in range(pictures.PARTS):
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
    if at != end or not seen >= _NEEDED or data.count(pictures.SCAN) > pictures.SCANS:
        return None
    return coded if marker == _SOS else 0


def _orientation(tiff: bytes) -> int:
    """The orientation 1..8 of an EXIF block; 1 if it has none, 0 if the block cannot be read."""
    order = pictures.TIFF_ORDER.get(tiff[:4])
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


def _decode(data: bytes, size: tuple[int, int]) -> Image.Image:
    """An upright RGB picture of `size` (width, height)."""
    return pictures.decode(data, lambda image: image.resize(size, Image.Resampling.BICUBIC))
