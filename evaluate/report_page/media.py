"""Frames and voices as data: URIs, small enough that the whole page stays below about 3 MB.

In:      files of a data set that may be shown (ReportConfig.media).   Out: markup; a placeholder where there is nothing to show.
Source:  ours. Thumbnails are made once, JPEG, within the bounds that packing has (`pipeline.base.pictures`); clips are embedded byte
         for byte and never cut, and where a part of a file was used, the player plays that part: what is heard is what was used.
"""

from __future__ import annotations

import base64
import io
import stat
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from evaluate.report_page.inputs import Data
from evaluate.report_page.markup import Html, el
from pipeline.base import pictures
from pipeline.base.errors import MediaError

BUDGET = 1_900_000
"""Bytes of pictures and sound before base64, which adds a third: 2.5 MB of page."""
CLIP_BYTES = 200_000
"""A longer clip is not embedded."""
SOUNDS = {".mp3": "audio/mpeg", ".wav": "audio/wav", ".flac": "audio/flac", ".ogg": "audio/ogg"}
WIDEST = 4
"""Most times its height that a thumbnail is wide; a picture that is wider is squeezed."""
QUALITY = 78


def may_show(data: Data, media: str) -> bool:
    """Whether this data set's frames and voices may stand in the page (ReportConfig.media)."""
    return media == "all" or (media == "generated" and data.generated)


@dataclass(slots=True)
class Media:
    """Makes pictures and players, and stops when the budget is spent."""

    left: int = BUDGET
    refused: list[str] = field(default_factory=list)
    """What could not be shown, in words."""
    _thumbs: dict[tuple[Path, int], bytes | None] = field(default_factory=dict)

    def thumbnail(self, path: Path, height: int, alt: str) -> Html:
        """One frame, scaled to `height` pixels."""
        key = (path, height)
        if key not in self._thumbs:
            self._thumbs[key] = self._shrink(path, height)
        data = self._thumbs[key]
        if data is None or not self._spend(len(data)):
            return placeholder("not shown", alt)
        return el("img", src=_uri("image/jpeg", data), alt=alt, height=height, decoding="async")

    def player(self, path: Path, label: str, start: float | None = None, seconds: float = 0.0) -> Html:
        """One clip with the browser's own player; where `start` is given, the `seconds` from there on (a media fragment)."""
        kind = SOUNDS.get(path.suffix.lower())
        if kind is None:
            self.refused.append(f"{path.name}: no type that a browser plays")
            return placeholder("not playable here", label)
        try:
            about = path.stat()  # before anything is read: recordings have gigabytes, and a named pipe never ends
            if not stat.S_ISREG(about.st_mode):
                self.refused.append(f"{path.name}: no regular file")
                return placeholder("not playable here", label)
            if about.st_size > CLIP_BYTES or not self._spend(about.st_size):
                self.refused.append(f"{path.name}: {about.st_size:,} bytes are too many for this page")
                return placeholder("too long for this page", label)
            data = path.read_bytes()
        except OSError as error:
            self.refused.append(f"{path.name}: {error.strerror}")
            return placeholder("file not found", label)
        part = "" if start is None else f"#t={start:.3f},{start + seconds:.3f}"
        return el("audio", controls=True, preload="none", src=_uri(kind, data) + part, aria_label=label)

    def _shrink(self, path: Path, height: int) -> bytes | None:
        def small(image: Image.Image) -> Image.Image:
            width = min(max(1, round(image.width * height / image.height)), WIDEST * height)
            return image.resize((width, height), Image.Resampling.LANCZOS)

        try:
            made = pictures.decode(pictures.read(str(path)), small)
        except MediaError as error:
            self.refused.append(f"{path.name}: {error}")
            return None
        except OSError as error:
            self.refused.append(f"{path.name}: {error.strerror}")
            return None
        out = io.BytesIO()
        made.save(out, "JPEG", quality=QUALITY, optimize=True)
        return out.getvalue()

    def _spend(self, count: int) -> bool:
        if count > self.left:
            return False
        self.left -= count
        return True


def placeholder(why: str, alt: str) -> Html:
    """Stands where a frame or a player would."""
    return el("span", why, class_="ph", title=alt, role="img", aria_label=f"{alt}: {why}")


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
