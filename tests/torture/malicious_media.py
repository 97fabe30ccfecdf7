"""Malicious media: sound that is a list of links, pictures for which Pillow would start another program, names that are options."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import numpy as np
import soundfile
from PIL import EpsImagePlugin

from evaluate.report_page.media import Media
from pipeline.base.config import FramesConfig
from pipeline.base.errors import MediaError
from pipeline.features import audio, frames
from tests.torture.malicious import Attack, Trap


def sound(content: str, name: str = "clip.mp3") -> Callable[[Trap], None]:
    """A file that calls itself a clip, beside one that is."""

    def run(trap: Trap) -> None:
        soundfile.write(trap.inside / "other.wav", 0.1 * np.sin(np.arange(16000) * 0.1), 16000)
        path = trap.inside / name.replace("{hit}", "hit")
        text = content.replace("{out}", str(trap.outside)).replace("{port}", str(trap.port)).replace("{in}", str(trap.inside))
        path.write_text(text)
        audio.decode(path)

    return run


@contextlib.contextmanager
def ghostscript(trap: Trap) -> Iterator[None]:
    """A `gs` on PATH that leaves the mark, as one that is installed would run what an EPS file says."""
    (trap.inside / "bin").mkdir()
    program = trap.inside / "bin/gs"
    program.write_text(f"#!/bin/sh\n{trap.touch}\n")
    program.chmod(0o755)
    path, known = os.environ["PATH"], EpsImagePlugin.gs_binary
    os.environ["PATH"], EpsImagePlugin.gs_binary = f"{program.parent}:{path}", None
    try:
        yield
    finally:
        os.environ["PATH"], EpsImagePlugin.gs_binary = path, known


def stored(content: bytes) -> Callable[[Trap], None]:
    """A picture on its way into a shard."""

    def run(trap: Trap) -> None:
        with ghostscript(trap):
            frames.encode(content, FramesConfig(height=32, width=16))

    return run


def shown(content: bytes) -> Callable[[Trap], None]:
    """A picture on its way into the report, which says what it could not show."""

    def run(trap: Trap) -> None:
        path = trap.inside / "1.jpg"
        path.write_bytes(content)
        media = Media()
        with ghostscript(trap):
            media.thumbnail(path, 32, "a person")
        if media.refused:
            raise MediaError("unreadable", media.refused[0])

    return run


def linked(trap: Trap) -> None:
    """A clip that is a link: followed."""
    (trap.inside / "clip.wav").symlink_to(trap.outside / "secret.wav")
    audio.decode(trap.inside / "clip.wav")


HLS = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{link}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1" '
    'bandwidth="1"><BaseURL>{link}</BaseURL></Representation></AdaptationSet></Period></MPD>'
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio {port} RTP/AVP 0\n"
LINKS = ("http://127.0.0.1:{port}/a.ts", "file://{out}/secret.wav", "other.wav")
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 32\n%%EndComments\n(%pipe%touch x) (w) file\nshowpage\n%%EOF\n"
PICTURES = {
    "EPS": EPS,
    "EPS behind a DOS header": b"\xc5\xd0\xd3\xc6" + (30).to_bytes(4, "little") + len(EPS).to_bytes(4, "little") + bytes(18) + EPS,
    "PDF": b"%PDF-1.4\n1 0 obj<</OpenAction<</S/JavaScript/JS(app.launchURL('x'))>>>>endobj\n",
    "SVG with a script": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"><script>alert(1)</script></svg>',
    "HTML": b"<html><script>alert(1)</script></html>",
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(40),
    "XPM": b'/* XPM */\nstatic char *a[] = {"1 1 1 1", "a c #ffffff", "a"};\n',
    "MSL of ImageMagick": b'<?xml version="1.0"?><image><read filename="x"/><write filename="y"/></image>',
    "MVG of ImageMagick": b"push graphic-context\nviewbox 0 0 640 480\nfill 'url(https://127.0.0.1/x.jpg\"|touch \"x)'\npop graphic-context\n",
}


def attacks() -> Iterator[Attack]:
    for link in LINKS:
        for kind, content in (("HLS", HLS), ("DASH", DASH), ("ffconcat", "ffconcat version 1.0\nfile '{link}'\n")):
            for name in ("clip.mp3", "clip.m3u8") if kind == "HLS" else ("clip.mp3",):
                yield Attack(f"sound: {kind} of {link} named {name}", sound(content.replace("{link}", link), name), "unreadable")
    yield Attack("sound: SDP, which listens", sound(SDP, "clip.sdp"), "unreadable")
    yield Attack("sound: a script of AviSynth", sound('DirectShowSource("{out}/secret.wav")', "clip.avs"), "unreadable")
    for name in (
        "-i {hit}.mp3",
        "$(touch {hit}).mp3",
        "`touch {hit}`.mp3",
        "a|touch {hit}|.mp3",
        "concat:other.wav|x.mp3",
        "a;touch {hit};.mp3",
        "%d.mp3",
    ):
        yield Attack(f"sound: named {name}", sound("no sound at all, but enough bytes to look at", name), "unreadable")
    yield Attack(
        "sound: a named pipe", lambda trap: (os.mkfifo(trap.inside / "a.mp3"), audio.decode(trap.inside / "a.mp3")), "not a regular file"
    )
    yield Attack("sound: a link that leaves the root is followed", linked, reads=True)
    for kind, content in PICTURES.items():
        yield Attack(f"frame: {kind} named .jpg", stored(content), "unreadable")
        yield Attack(f"report: {kind} named .jpg", shown(content), "unreadable")
