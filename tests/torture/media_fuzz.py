"""Hostile clips and pictures, made from good ones: the same files for the same seed.

In:      good MP3 (the demo speaks them) and good JPEG (the demo draws them), real ones beside them where there are any.
Out:     :class:`Hostile` files. Fixed ones (`odd_clips`, `odd_pictures`) attack one weakness each; the others (`fuzzed_clips`,
         `fuzzed_pictures`) are a good file with a change that is drawn.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from pipeline.base.seeds import rng
from pipeline.demo.cameras import camera
from pipeline.demo.people import people
from pipeline.demo.shots import Shot, encode, frames
from pipeline.demo.voices import Clip, mp3, render, speak, speakers

SEED = 606
HEIGHT, WIDTH = 256, 128
HTML = b"<!DOCTYPE html><html><head><title>404</title></head><body>" + b"<p>not found</p>" * 200 + b"</body></html>"


@dataclass(frozen=True, slots=True)
class Hostile:
    """A file: `head`, then `hole` zero bytes (which take no room on the disk), then `tail`."""

    name: str
    """What was done to it, and a number."""
    head: bytes
    hole: int = 0
    tail: bytes = b""

    def write(self, path: Path) -> None:
        with open(path, "wb") as file:
            file.write(self.head)
            file.truncate(len(self.head) + self.hole)
            file.seek(0, io.SEEK_END)
            file.write(self.tail)


# --- good files ------------------------------------------------------------------------------------------------------


def good_clips(count: int, seconds: tuple[float, float] = (0.8, 3.0)) -> list[bytes]:
    """MP3 clips of several speakers, at 48 and 32 kHz in turn."""
    draw, who = rng(SEED, "clips"), speakers(SEED, count)
    return [
        render(Clip(seed=SEED, name=f"clip {n}", speaker=who[n], seconds=float(draw.uniform(*seconds)), rate=(48000, 32000)[n % 2]))
        for n in range(count)
    ]


def good_pictures(count: int) -> list[bytes]:
    """JPEG frames as the demo's MARS has them, 256 x 128; every third one progressive."""
    view, who = camera(SEED, "mars", 0), people(SEED, "media", 2)
    shots = [Shot(name=f"media {n}", person=who[n], camera=view, length=math.ceil(count / 2), misplaced=False) for n in range(2)]
    drawn = [picture for shot in shots for picture in frames(shot)][:count]
    made = [encode(picture, "jpeg", view) for picture in drawn]
    return [saved(drawn[n], progressive=True) if n % 3 == 2 else made[n] for n in range(count)]


def saved(picture: np.ndarray | Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """A picture as the bytes of a file."""
    out = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(out, kind, **options)
    return out.getvalue()


# --- changes to any file ---------------------------------------------------------------------------------------------

Change = Callable[[bytes, np.random.Generator, Sequence[bytes]], bytes]
"""(a good file, random numbers, all good files) -> a bad one."""


def truncated(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    return data[: int(draw.integers(1, len(data)))]


def flipped(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """1 to 100 bits, anywhere."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits[draw.integers(0, len(bits), int(draw.integers(1, 101)))] ^= 1
    return np.packbits(bits).tobytes()


def flipped_head(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """1 to 10 bits of the first 700 bytes: tables and headers."""
    size = min(700, len(data))
    bits = np.unpackbits(np.frombuffer(data[:size], np.uint8))
    bits[draw.integers(0, len(bits), int(draw.integers(1, 11)))] ^= 1
    return np.packbits(bits).tobytes() + data[size:]


def zero_run(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    first, last = sorted(draw.integers(0, len(data) + 1, 2).tolist())
    return data[:first] + bytes(last - first) + data[last:]


def zero_bytes(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """Zeros here and there."""
    made = np.frombuffer(data, np.uint8).copy()
    made[draw.integers(0, len(made), int(draw.integers(1, 200)))] = 0
    return made.tobytes()


def random_head(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    size = int(draw.integers(1, 2000))
    return draw.bytes(size) + data[size:]


def random_before(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    return draw.bytes(int(draw.integers(1, 5000))) + data


def duplicated(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    first, last = sorted(draw.integers(0, len(data) + 1, 2).tolist())
    return data[:last] + data[first:last] * int(draw.integers(1, 4)) + data[last:]


def spliced(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """The beginning of one file and the end of another: sample rate, channels or size may change in the middle."""
    other = others[int(draw.integers(len(others)))]
    return data[: int(draw.integers(1, len(data)))] + other[int(draw.integers(len(other))) :]


def html(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """Instead of the file, or over its beginning, or behind a part of it."""
    page = HTML[: int(draw.integers(1, len(HTML)))]
    return (page, page + data[len(page) :], data[: int(draw.integers(1, len(data)))] + page)[int(draw.integers(3))]


ANY: tuple[Change, ...] = (
    truncated,
    flipped,
    flipped_head,
    zero_run,
    zero_bytes,
    random_head,
    random_before,
    duplicated,
    spliced,
    html,
)


# --- clips -----------------------------------------------------------------------------------------------------------


def _synchsafe(size: int) -> bytes:
    return bytes(size >> shift & 127 for shift in (21, 14, 7, 0))


def id3(size: int, claim: int | None = None) -> bytes:
    """An ID3v2.4 tag of one text frame."""
    frame = b"TXXX" + _synchsafe(max(size - 10, 0)) + b"\0\0\3"
    return (b"ID3\4\0\0" + _synchsafe(size if claim is None else claim) + frame)[: 10 + size].ljust(10 + size, b"x")


def id3_lies(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A tag that claims anything up to 256 MB and has up to 20 kB."""
    return id3(int(draw.integers(0, 20_000)), int(2 ** draw.uniform(0, 28)) - 1) + data


def many_tags(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    return id3(int(draw.integers(0, 50))) * int(draw.integers(2, 500)) + data


def xing_lies(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """A first frame whose Xing or Info header claims any number of frames and bytes."""
    word = (b"Xing", b"Info")[int(draw.integers(2))]
    claims = [int(2 ** draw.uniform(0, 32)) - 1 for _ in range(2)]
    mono = 21
    frame = b"\xff\xfb\x94\xc4".ljust(mono, b"\0") + word + struct.pack(">III", 15, *claims) + draw.bytes(100) + struct.pack(">I", 0)
    return frame.ljust(384, b"\0") + data


def other_headers(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """Some frames say another rate, bit rate (free format among them), layer or number of channels."""
    made = bytearray(data)
    at = [n for n in range(len(data) - 4) if data[n] == 0xFF and data[n + 1] & 0xE0 == 0xE0]
    for n in draw.choice(at, min(len(at), int(draw.integers(1, 20)))).tolist():
        made[n + 1 + int(draw.integers(3))] = int(draw.integers(256))
    return bytes(made)


def at_rates(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """MPEG 1, 2 and 2.5 at any of their rates, mono or stereo, then a clip of another kind: legal, and rarely met."""
    rate = (8000, 11025, 12000, 16000, 22050, 24000, 44100)[int(draw.integers(7))]
    noise = 0.1 * draw.standard_normal((int(rate * draw.uniform(0.1, 1.0)), int(draw.integers(1, 3))))
    out = io.BytesIO()
    soundfile.write(out, noise, rate, format="MP3", subtype="MPEG_LAYER_III")
    return out.getvalue() + (data if draw.random() < 0.5 else b"")


def other_container(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """WAV, FLAC, Ogg, AIFF, AU, CAF, W64, RF64 by the wrong name, whole or damaged."""
    kinds = (
        ("WAV", "PCM_16"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("AIFF", "FLOAT"),
        ("AU", "PCM_16"),
        ("CAF", "PCM_24"),
        ("W64", "PCM_16"),
    )
    kind, subtype = (*kinds, ("RF64", "PCM_16"), ("WAV", "IMA_ADPCM"), ("OGG", "OPUS"))[int(draw.integers(10))]
    out = io.BytesIO()
    soundfile.write(out, 0.1 * draw.standard_normal((8000, int(draw.integers(1, 3)))), 16000, format=kind, subtype=subtype)
    made = out.getvalue()
    return made if draw.random() < 0.3 else (truncated, flipped, flipped_head, zero_run)[int(draw.integers(4))](made, draw, others)


CLIPS: tuple[Change, ...] = (*ANY, id3_lies, many_tags, xing_lies, other_headers, at_rates, other_container)


def fuzzed(count: int, goods: Sequence[bytes], changes: Sequence[Change], what: str) -> Iterator[Hostile]:
    """`count` files: changes in turn, each to a good file that is drawn."""
    for number in range(count):
        draw, change = rng(SEED, what, number), changes[number % len(changes)]
        good = goods[int(draw.integers(len(goods)))]
        yield Hostile(f"{change.__name__} {number}", change(good, draw, goods))


def fuzzed_clips(count: int, goods: Sequence[bytes]) -> Iterator[Hostile]:
    return fuzzed(count, goods, CLIPS, "fuzzed clip")


def wav(rate: int, channels: int, bits: int, claim: int, form: int = 1) -> bytes:
    """Head of a WAV file that claims `claim` bytes of samples."""
    wide = rate * channels * bits // 8 & 0xFFFFFFFF, channels * bits // 8 & 0xFFFF
    head = struct.pack("<IHHIIHH", 16, form, channels, rate, *wide, bits)
    return b"RIFF" + struct.pack("<I", 0xFFFFFFFF) + b"WAVEfmt " + head + b"data" + struct.pack("<I", claim)


def odd_clips(good: bytes) -> list[Hostile]:
    """Each attacks one weakness; some claim terabytes, some have gigabytes of zeros, which take no room."""
    huge = (1 << 28) - 1
    text = b"TXXX" + _synchsafe(huge - 10) + b"\0\0"
    noise = rng(SEED, "odd clips")
    streams = ((48000 << 44) | (15 << 36) | ((1 << 36) - 1)).to_bytes(8, "big")
    far = b"\xff" * 7 + b"\x7f"  # 2**63 - 1
    sixteen = struct.pack("<IHHIIHH", 16, 1, 1, 48000, 96000, 2, 16)
    caf = b"caff\0\1\0\0desc" + struct.pack(">Qd4s5I", 32, 48000.0, b"lpcm", 0, 2, 1, 1, 16)
    vorbis = b"\1\x1e\1vorbis" + struct.pack("<IBIiiiBB", 0, 255, 384000, 0, 0, 0, 0xB8, 1)
    return [
        Hostile("no bytes", b""),
        Hostile("one byte", b"\xff"),
        Hostile("ID3 claims 256 MB", b"ID3\4\0\0" + _synchsafe(huge) + good),
        Hostile("ID3 has 256 MB", b"ID3\4\0\0" + _synchsafe(huge) + text, huge - len(text), good),
        Hostile("ID3 only", id3(2000)),
        Hostile("ID3 frame longer than its tag", b"ID3\4\0\0" + _synchsafe(4000) + text.ljust(4000, b"x") + good),
        Hostile("WAV claims 4 GB", wav(48000, 1, 16, 0xFFFFFFFF), 96000),
        Hostile("WAV has 4 GB", wav(48000, 1, 16, 0xFFFFFFFF), (1 << 32) - 100),
        Hostile("WAV of 0 channels", wav(48000, 0, 16, 1000), 1000),
        Hostile("WAV of 0 Hz", wav(0, 1, 16, 1000), 1000),
        Hostile("WAV of NaN", wav(16000, 1, 32, 64000, 3) + struct.pack("<f", math.nan) * 16000),
        Hostile("WAV of infinity", wav(16000, 1, 32, 64000, 3) + struct.pack("<f", math.inf) * 16000),
        Hostile("RF64 claims 2^63", b"RF64\xff\xff\xff\xffWAVEds64" + struct.pack("<I", 28) + far * 3 + bytes(4) + b"fmt " + sixteen
                + b"data\xff\xff\xff\xff", 96000),
        Hostile("W64 claims 2^63", b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0" + far, 1000),
        Hostile("CAF claims 2^63", caf + b"data" + far[::-1], 96000),
        Hostile("AU of 1,000 channels", struct.pack(">4s5I", b".snd", 24, 0xFFFFFFFF, 3, 48000, 1000), 1000),
        Hostile("AU claims 4 GB", struct.pack(">4s5I", b".snd", 24, 0xFFFFFFFF, 3, 48000, 1), 96000),
        Hostile("FLAC claims 2^36", b"fLaC\0\0\0\x22\x10\0\x10\0" + bytes(6) + streams + bytes(16), 1000),
        Hostile("FLAC of 16 MB of tags", b"fLaC\x84\xff\xff\xff", 1 << 24),
        Hostile("Ogg of 255 channels", b"OggS\0\2" + b"\xff" * 8 + bytes(12) + vorbis, 1000),
        Hostile("zeros, 2 GB", b"\0", 2 << 30),
        Hostile("a play list", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\nhttp://127.0.0.1:9/x.mp3\n" * 100),
        Hostile("a concat script", b"ffconcat version 1.0\nfile /etc/passwd\nfile /dev/zero\n"),
        Hostile("a session description", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n"),
        Hostile("m4a without an index", struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"M4A ", 0, b"M4A ", b"isom") + struct.pack(">I4s", 8, b"moov")),
        Hostile("m4a in itself", struct.pack(">I4s4sI", 16, b"ftyp", b"M4A ", 0) + struct.pack(">I4s", 8 * 3000, b"moov") * 3000),
        Hostile("a picture", saved(Image.new("RGB", (WIDTH, HEIGHT)))),
        Hostile("gzip", b"\x1f\x8b\x08" + bytes(7) + noise.bytes(5000)),
    ]  # fmt: skip


def large_clips(good: bytes) -> list[Hostile]:
    """As large as is read at all, and nothing that ends soon."""
    noise = rng(SEED, "large clips")
    tone = mp3(speak(speakers(SEED, 1)[0], 0.8, noise), 48000)
    return [
        Hostile("ID3 has 15 MB", b"ID3\4\0\0" + _synchsafe(15 << 20), 15 << 20, good),
        Hostile("ID3 twice 15 MB", (b"ID3\4\0\0" + _synchsafe(15 << 20)).ljust((15 << 20) + 10, b"\0") * 2 + good),
        Hostile("WAV of 1,024 channels", wav(192000, 1024, 32, 0xFFFFFFFF, 3), 30 << 20),
        Hostile("WAV of 65,535 channels", wav(192000, 65535, 8, 0xFFFFFFFF), 30 << 20),
        Hostile("WAV of 384 kHz", wav(384000, 1, 16, 0xFFFFFFFF), 30 << 20),
        Hostile("WAV, as much as is allowed", wav(192000, 1, 16, 0xFFFFFFFF), 2 * 192000 * 87),
        Hostile("WAV, 16 channels", wav(192000, 16, 8, 0xFFFFFFFF), 30 << 20),
        Hostile("WAV of two minutes, 16 channels", wav(192000, 16, 8, 0xFFFFFFFF), 192000 * 16 * 119),
        Hostile("RIFF, 700 MB of nothing", b"RIFF", 700 << 20),
        Hostile("zeros, 30 MB", b"\0", 30 << 20),
        Hostile("noise, 30 MB", noise.bytes(30 << 20)),
        Hostile("frame headers, 30 MB", b"\xff\xfb\x90\0" * (15 << 19)),
        Hostile("sync words, 30 MB", b"\xff\xfb" * (15 << 20)),
        Hostile("an hour in one clip", tone[:72] + tone[1000:] * (60 * 45)),
        Hostile("zeros within", good[: len(good) // 2], 30 << 20, good[len(good) // 2 :]),
    ]  # fmt: skip


# --- pictures --------------------------------------------------------------------------------------------------------


def segments(jpeg: bytes) -> list[tuple[int, bytes]]:
    """(marker, all bytes up to the next one) of a JPEG's segments, coded data with their scan; without SOI and EOI."""
    at, out = 2, []
    while at < len(jpeg) - 2:
        marker, end = jpeg[at + 1], at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        if marker == 0xDA:
            while jpeg[end] != 0xFF or jpeg[end + 1] in (0, *range(0xD0, 0xD8)):
                end += 1
        out.append((marker, jpeg[at:end]))
        at = end
    return out


def joined(parts: Sequence[tuple[int, bytes]]) -> bytes:
    return b"\xff\xd8" + b"".join(part for _, part in parts) + b"\xff\xd9"


def application(marker: int, body: bytes) -> tuple[int, bytes]:
    """One segment."""
    return marker, struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def sized(jpeg: bytes, height: int, width: int, kind: int = 0, bits: int = 8, components: int = 3) -> bytes:
    """The same JPEG with another claim of its frame header (`kind` is its marker; 0: as it was)."""
    parts = []
    for marker, part in segments(jpeg):
        if marker in (0xC0, 0xC2):
            marker = kind or marker
            part = struct.pack(">BBHBHHB", 0xFF, marker, len(part) - 2, bits, height, width, components) + part[10:]
        parts.append((marker, part))
    return joined(parts)


def tiff_tags(entries: Sequence[tuple[int, int, int, int]], after: bytes = b"", next_at: int = 0) -> bytes:
    """A TIFF (or the block of an EXIF) of one directory of (tag, type, count, value)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0" + struct.pack("<IH", 8, len(entries)) + packed + struct.pack("<I", next_at) + after


def with_exif(jpeg: bytes, block: bytes) -> bytes:
    return joined([application(0xE1, b"Exif\0\0" + block), *segments(jpeg)])


def damaged_data(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """Coded data alone are damaged; the head says nothing of it, so such a frame is packed as it is."""
    parts = segments(data)
    marker, scan = parts[-1]
    middle = 20 + int(draw.integers(max(len(scan) - 20, 1)))
    body = (scan[:middle], scan[:middle] + bytes(len(scan) - middle), flipped(scan[middle:], draw, others))[int(draw.integers(3))]
    scan = body if body[:2] == b"\xff\xda" else scan[:middle] + body
    return joined([*parts[:-1], (marker, scan)])


def damaged_tables(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """One segment is damaged inside, dropped, said twice or moved; lengths stay right, so that it may be packed as it is."""
    parts = segments(data)
    n = int(draw.integers(len(parts)))
    marker, part = parts[n]
    how = int(draw.integers(4))
    if how == 0:
        parts[n] = marker, part[:4] + flipped_head(part[4:], draw, others)
    elif how == 1:
        del parts[n]
    else:
        parts.insert(int(draw.integers(len(parts))) if how == 2 else n, parts[n])
    return joined(parts)


def restarts(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """Restart markers strewn into the coded data."""
    parts = segments(data)
    marker, scan = parts[-1]
    for at in sorted(draw.integers(20, len(scan), int(draw.integers(1, 200))).tolist(), reverse=True):
        scan = scan[:at] + bytes((0xFF, 0xD0 + int(draw.integers(8)))) + scan[at:]
    return joined([*parts[:-1], (marker, scan)])


def no_end(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    return data[:-2] + b"\xff\xd9"[: int(draw.integers(2))]


def garbage_after(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    return data + (draw.bytes(int(draw.integers(1, 3000))), others[int(draw.integers(len(others)))], bytes(7))[int(draw.integers(3))]


def other_frame(data: bytes, draw: np.random.Generator, _: Sequence[bytes]) -> bytes:
    """Any frame header: other sizes, depths, numbers of components, arithmetic, lossless, hierarchical."""
    kind = (0, 0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCF)[int(draw.integers(13))]
    height, width = (HEIGHT, WIDTH) if draw.random() < 0.5 else draw.integers(0, 3000, 2).tolist()
    return sized(data, height, width, kind, int(draw.choice([8, 8, 8, 12, 16, 2])), int(draw.choice([3, 3, 1, 4, 2, 0, 255])))


def turned(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """EXIF orientation 0 to 9, or an EXIF block that is damaged."""
    block = tiff_tags([(0x0112, 3, 1, int(draw.integers(10)))], draw.bytes(20))
    return with_exif(data, block if draw.random() < 0.5 else flipped_head(block, draw, others))


def other_picture(data: bytes, draw: np.random.Generator, others: Sequence[bytes]) -> bytes:
    """PNG, GIF, BMP, TIFF, WebP, PPM, ICO by the wrong name, in many modes, whole or damaged."""
    kinds = (
        *(("PNG", mode) for mode in ("RGB", "RGBA", "P", "L", "1", "I;16")),
        *(("TIFF", mode) for mode in ("RGB", "CMYK", "F", "LAB")),
        ("GIF", "P"), ("BMP", "RGB"), ("WEBP", "RGBA"), ("PPM", "RGB"), ("ICO", "RGBA"), ("JPEG", "CMYK"), ("JPEG", "L"),
    )  # fmt: skip
    kind, mode = kinds[int(draw.integers(len(kinds)))]
    image = Image.open(io.BytesIO(data)).convert("RGB")
    made = saved((image.convert("L") if mode == "I;16" else image).convert(mode), kind)
    return made if draw.random() < 0.3 else (truncated, flipped, flipped_head, zero_run)[int(draw.integers(4))](made, draw, others)


PICTURES: tuple[Change, ...] = (
    *ANY,
    damaged_data,
    damaged_tables,
    restarts,
    no_end,
    garbage_after,
    other_frame,
    turned,
    other_picture,
)


def fuzzed_pictures(count: int, goods: Sequence[bytes]) -> Iterator[Hostile]:
    return fuzzed(count, goods, PICTURES, "fuzzed picture")


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _shared_tags() -> bytes:
    """An EXIF block that turns the picture, and whose other 2,500 tags all point at the same 30,000 bytes."""
    tags = [(0x0112, 3, 1, 6), *((1000 + n, 7, 30_000, 8 + 2 + 12 * 2501 + 4) for n in range(2500))]
    return tiff_tags(tags, b"x" * 30_000)[:65_000]


def _directories() -> bytes:
    """A TIFF of 60,000 directories that share bytes, each of 65,535 tags of no values: the first names the others."""
    count, first = 60_000, 8 + 2 + 12 * 60_000
    named = struct.pack("<IH", 8, count) + b"".join(struct.pack("<HHII", 0x8769, 4, 0, first + 12 * n) for n in range(count))
    return b"II*\0" + named + (b"\xff\xff" + bytes(10)) * (count + 65_536)


def odd_pictures(good: bytes) -> list[Hostile]:
    """Each attacks one weakness: kinds of JPEG that nobody writes, and claims that are not true."""
    plain = saved(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    waves = saved(np.full((HEIGHT, WIDTH, 3), 90, np.uint8), progressive=True)
    scans = segments(waves)
    last = scans[-1]
    loop = tiff_tags([(0x0112, 3, 1, 6), (0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)], next_at=8)
    return [
        Hostile("no bytes", b""),
        Hostile("two bytes", b"\xff\xd8"),
        Hostile("EOI only", b"\xff\xd8\xff\xd9"),
        *(Hostile(f"orientation {n}", with_exif(good, tiff_tags([(0x0112, 3, 1, n)]))) for n in range(1, 9)),
        Hostile("EXIF in a loop", with_exif(good, loop)),
        Hostile("EXIF of nothing", with_exif(good, b"")),
        Hostile("EXIF claims 4 GB", with_exif(good, tiff_tags([(0x0112, 3, 1, 6), (1000, 7, 0xFFFFFFFF, 8)]))),
        Hostile("EXIF whose tags share bytes", with_exif(good, _shared_tags())),
        Hostile("a Huffman table of too many codes", joined([(m, p[:5] + b"\xff" + p[6:] if m == 0xC4 else p) for m, p in segments(good)])),
        Hostile("1 x 1", saved(Image.new("L", (1, 1)))),
        Hostile("0 x 0", sized(plain, 0, 0)),
        Hostile("30,000 x 30,000 claimed", sized(plain, 30000, 30000)),
        Hostile("65,535 x 65,535 claimed", sized(plain, 65535, 65535)),
        Hostile("12 bit", sized(plain, HEIGHT, WIDTH, 0xC1, 12)),
        Hostile("lossless", sized(plain, HEIGHT, WIDTH, 0xC3)),
        Hostile("arithmetic", sized(plain, HEIGHT, WIDTH, 0xC9)),
        Hostile("arithmetic, progressive", sized(waves, HEIGHT, WIDTH, 0xCA)),
        *(Hostile(f"{n} components", sized(plain, HEIGHT, WIDTH, components=n)) for n in (0, 1, 2, 4, 255)),
        Hostile("CMYK", saved(Image.new("CMYK", (WIDTH, HEIGHT)))),
        Hostile("no EOI", good[:-2]),
        Hostile("two pictures", good + good),
        Hostile("two pictures in one", good[:-2] + good[2:]),
        Hostile("MPO", saved(Image.new("RGB", (WIDTH, HEIGHT)), "MPO", save_all=True, append_images=[Image.new("RGB", (16, 16))])),
        Hostile("100 scans", joined([*scans, *[last] * (100 - sum(marker == 0xDA for marker, _ in scans))])),
        Hostile("5,000 scans", joined([*scans, *[last] * 5_000])),
        Hostile("segment longer than the file", plain[:2] + b"\xff\xe2\xff\xff" + plain[2:]),
        Hostile("segment of length 0", plain[:2] + b"\xff\xe2\0\0" + plain[2:]),
        Hostile("GIF bomb", b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + bytes(6) + b"," + struct.pack("<HHHHBB", 0, 0, 65535, 65535, 0, 8)),
        Hostile("TIFF in a loop", tiff_tags([(256, 4, 1, 16), (0x8769, 4, 1, 8)], next_at=8)),
        Hostile("TIFF claims 4 GB", tiff_tags([(256, 4, 1, 16), (257, 4, 1, 16), (273, 4, 0xFFFFFFFF, 8), (279, 4, 0xFFFFFFFF, 8)])),
        Hostile("BMP bomb", b"BM" + struct.pack("<IHHI", 0, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 30000, 30000, 1, 24, 0, 0, 0, 0, 0, 0)),
        Hostile("an EPS that would start Ghostscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n" + bytes(65_536)),
        Hostile("a clip", b"\xff\xfb\x90\0" * 1000),
    ]  # fmt: skip


def bombs(good: bytes) -> list[Hostile]:
    """Pictures that take seconds or gigabytes wherever they are not refused: many megabytes, or few that become many."""
    grey = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    plain, waves = saved(grey), saved(grey, progressive=True)
    scans, png = segments(waves), saved(grey, "PNG")
    last = scans[-1]
    large = saved(np.zeros((3500, 3500, 3), np.uint8), progressive=True)
    repeated = [*segments(large), segments(large)[-1]]
    tag_bomb = tiff_tags(
        [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, 16), (279, 4, 1, 256),
         *((1000 + n, 7, 1 << 20, 100_000) for n in range(3000))], bytes(2 << 20),
    )  # fmt: skip
    strips = tiff_tags(
        [(256, 4, 1, 1), (257, 4, 1, 1 << 22), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1 << 22, 110), (278, 4, 1, 1),
         (279, 4, 1 << 22, 110)], bytes(4 << 22),
    )  # fmt: skip
    pixels = _chunk(b"IDAT", zlib.compress(bytes(30001 * 3000)) * 1)
    bomb = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)) + pixels + _chunk(b"IEND", b"")
    text = _chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(50 << 20)))
    grey_blocks = segments(saved(Image.new("L", (8, 8), 128)))  # 6 bits a block: no difference to the one before, and no more
    tables = [*grey_blocks[:-1], (0xDA, grey_blocks[-1][1][:10] + bytes.fromhex("28a28a") * (3750 * 3750 // 4))]
    compressed = sized(joined(tables), 30000, 30000, components=1)
    small_tiff = saved(Image.new("RGB", (3500, 3500)), "TIFF", compression="tiff_deflate")
    rle = b"BM" + struct.pack("<IHHI", 0, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, 3500, 3500, 1, 8, 1, 0, 0, 0, 256, 0)
    exif = _shared_tags()
    return [
        Hostile("EXIF of 20 MB", joined([application(0xE1, b"Exif\0\0" + exif)] * 320 + segments(good))),
        Hostile("30,000 x 30,000 compressed", compressed),
        Hostile("1,000,000 scans", joined([*scans, *[last] * 1_000_000])),
        Hostile("23 scans of 12 Mpixel", joined([*repeated, *[repeated[-1]] * 12])),
        Hostile("1,000 scans of 12 Mpixel", joined([*repeated, *[repeated[-1]] * 1_000])),
        Hostile("comments, 7 million", joined([application(0xFE, b"")] * (7 << 20) + segments(plain))),
        Hostile("segments as long as can be", joined([application(0xE2, b"ICC_PROFILE\0\1\1" + bytes(65_000))] * 400 + segments(plain))),
        Hostile("fill bytes, 30 MB", plain[:2] + b"\xff" * (30 << 20) + plain[2:]),
        Hostile("restarts, 30 MB", plain[:-2] + b"\xff\xd0" * (15 << 20) + plain[-2:]),
        Hostile("restarts before the head", plain[:2] + b"\xff\xd0" * (15 << 20) + plain[2:]),
        Hostile("stuffed zeros before the head", plain[:2] + b"\xff\0" * (15 << 20) + plain[2:]),
        Hostile("coded zeros, 30 MB", plain[:-2] + bytes(30 << 20) + plain[-2:]),
        Hostile("zeros, 2 GB", b"\xff\xd8\xff", 2 << 30),
        Hostile("PNG bomb", bomb),
        Hostile("PNG of 12 Mpixel", saved(Image.new("RGBA", (3500, 3500)), "PNG")),
        Hostile("PNG text bomb", png[:33] + text + png[33:]),
        Hostile("PNG of 2 million chunks", png[:33] + _chunk(b"tEXt", b"a\0b") * (1 << 21) + png[33:]),
        Hostile("PNG with EXIF of 20 MB", png[:33] + _chunk(b"eXIf", exif * 320) + png[33:]),
        Hostile("TIFF of 12 Mpixel", small_tiff),
        Hostile("TIFF whose tags share bytes", tag_bomb),
        Hostile("TIFF of 4 million strips", strips),
        Hostile("TIFF of 60,000 directories", _directories()),
        Hostile("WebP of noise, 12 Mpixel", saved(rng(SEED, "bombs").integers(0, 255, (3500, 3500, 4), np.uint8), "WEBP", quality=50, method=0)),
        Hostile("BMP of run lengths", rle + bytes(1024) + b"\1\1" * 3500 * 3500),
        Hostile("PPM of text", b"P3\n2000 2000 255\n" + b"1 " * 12_000_000),
        Hostile("PPM of one comment", b"P6\n#" + b"x" * (30 << 20) + b"\n16 16 255\n" + bytes(768)),
        Hostile("WebP of 12 Mpixel", saved(Image.new("RGBA", (3500, 3500)), "WEBP", quality=1, method=0)),
    ]  # fmt: skip
