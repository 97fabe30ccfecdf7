"""One picture: taken as it is, made anew, or refused with a reason. Nothing else may happen."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline.base import pictures
from pipeline.base.config import FramesConfig
from pipeline.base.errors import MediaError
from pipeline.base.seeds import rng
from pipeline.features import frames

CONFIG = FramesConfig(height=32, width=16)
SCANS = pictures.SCANS
REASONS = {"empty", "unreadable", "truncated", "too large"}


def picture(width=16, height=32, mode="RGB") -> Image.Image:
    """Red falls to the right, green rises downwards."""
    y, x = np.mgrid[:height, :width]
    rgb = np.stack([255 - 255 * x / max(1, width - 1), 255 * y / max(1, height - 1), np.full_like(x, 64)], 2).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def saved(image: Image.Image, kind="JPEG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def exif(orientation: int) -> bytes:
    made = Image.Exif()
    made[0x0112] = orientation
    return made.tobytes()


@pytest.mark.parametrize(
    "options",
    [{}, {"quality": 30}, {"progressive": True}, {"subsampling": "4:4:4"}, {"optimize": True}, {"comment": b"hi"}, {"restart_marker_blocks": 1},
     {"exif": exif(1)}, {"dpi": (72, 72)}],
)  # fmt: skip
def test_taken_byte_for_byte(options):
    data = saved(picture(), **options)
    made, resized = frames.encode(data, CONFIG)
    assert made is data and not resized


def test_taken_without_decoding(monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    frames.encode(saved(picture()), CONFIG)


OTHERS = {
    "png": saved(picture(), "PNG"),
    "bmp": saved(picture(), "BMP"),
    "webp": saved(picture(), "WEBP"),
    "tiff": saved(picture(), "TIFF"),
    "ppm": saved(picture(), "PPM"),
    "palette": saved(picture(mode="P"), "PNG"),
    "alpha": saved(picture(mode="RGBA"), "PNG"),
    "wider": saved(picture(width=17)),
    "turned": saved(picture(width=32, height=16)),
    "grey": saved(picture(mode="L")),
    "cmyk": saved(picture(mode="CMYK")),
    "rotated": saved(picture(width=32, height=16), exif=exif(6)),
    "mirrored": saved(picture(), exif=exif(2)),
    "bytes after the end": saved(picture()) + b"\0\0",
    "two images": saved(picture()) + saved(picture()),
}


@pytest.mark.parametrize("name", OTHERS)
def test_made_anew(name):
    made, resized = frames.encode(OTHERS[name], CONFIG)
    assert resized and frames.is_stored_form(made, 32, 16)
    assert frames.encode(OTHERS[name], CONFIG)[0] == made
    assert frames.encode(made, CONFIG) == (made, False)  # once is enough


@pytest.mark.parametrize("name", ["png", "bmp", "tiff", "ppm", "alpha", "bytes after the end"])
def test_colours_stay(name):
    found = pixels(frames.encode(OTHERS[name], CONFIG)[0]).astype(int)
    assert np.abs(found - np.asarray(picture(), int)).mean() < 6


def test_orientation_is_applied():
    sideways = picture().transpose(Image.Transpose.ROTATE_90)  # orientation 6 says: turn it back by 90 degrees clockwise
    found = pixels(frames.encode(saved(sideways, exif=exif(6)), CONFIG)[0]).astype(int)
    assert np.abs(found - np.asarray(picture(), int)).mean() < 6
    mirrored = pixels(frames.encode(OTHERS["mirrored"], CONFIG)[0]).astype(int)
    assert np.abs(mirrored - np.asarray(picture(), int)[:, ::-1]).mean() < 6


def test_sixteen_bits_keep_the_upper_eight():
    levels = np.full((32, 16), 200 * 256 + 255, np.uint16)
    made, _ = frames.encode(saved(Image.fromarray(levels), "PNG"), CONFIG)
    assert np.abs(pixels(made).astype(int) - 200).max() <= 1


def test_quality_decides_the_bytes():
    data = OTHERS["png"]
    low, high = (frames.encode(data, FramesConfig(height=32, width=16, quality=q))[0] for q in (50, 95))
    assert len(low) < len(high)


def test_comments_do_not_travel():
    made, _ = frames.encode(saved(picture(width=17), comment=b"name of a person", exif=exif(1)), CONFIG)
    assert b"name of a person" not in made and b"Exif" not in made


def png_of(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing of it."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "unreadable"),
        (b"\xff\xd8\xff\xd9", "unreadable"),
        (saved(picture())[:-40], "truncated"),
        (saved(picture())[:-1], "truncated"),
        (saved(picture(100, 100), "PNG")[:300], "truncated"),
        (png_of(8193, 8193), "too large"),
        (png_of(60000, 60000), "too large"),
    ],
)  # fmt: skip
def test_broken(data, reason):
    start = time.process_time()
    with pytest.raises(MediaError) as caught:
        frames.encode(data, CONFIG)
    assert caught.value.reason == reason and time.process_time() - start < 1
    assert "0x" not in str(caught.value)  # no memory address: a quarantine table is the same each time


def test_damaged_markers_are_never_taken_as_they_are():
    """Each byte of the headers, changed: the size check reads what a decoder would read."""
    data = saved(picture())
    sof = data.index(b"\xff\xc0")
    for at in range(sof + 1, sof + 10):  # marker, length, precision, height, width, components
        assert not frames.is_stored_form(data[:at] + bytes([data[at] ^ 0x08]) + data[at + 1 :], 32, 16)
    assert frames.is_stored_form(data, 32, 16) and not frames.is_stored_form(data, 16, 32)
    assert not frames.is_stored_form(data[: data.index(b"\xff\xda")] + b"\xff\xd9", 32, 16)  # no scan
    for table in (b"\xff\xc4", b"\xff\xdb"):  # all Huffman or all quantisation tables renamed to comments
        assert not frames.is_stored_form(data.replace(table, b"\xff\xfe"), 32, 16)


def mutations(data: bytes) -> Iterator[bytes]:
    """Each bit flipped, cut and grown everywhere, each kind of marker put in everywhere."""
    for at in range(len(data)):
        for bit in range(8):
            yield data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        yield data[:at]
        yield data[at:]
        yield data[:at] + data[at + 1 :]
        for marker in (0x00, 0x01, 0xC0, 0xC2, 0xC4, 0xCC, 0xD0, 0xD7, 0xD8, 0xD9, 0xDA, 0xDB, 0xE1, 0xFE, 0xFF):
            yield data[:at] + bytes([0xFF, marker]) + data[at:]
    yield from (data + more for more in (b"\0", b"\xff", b"\xff\xd9", b"\xff\xff\xd9", data))


HEADS = {
    "baseline": saved(picture(8, 8)),
    "restarts": saved(picture(8, 16), restart_marker_blocks=1),
    "progressive": saved(picture(8, 8), progressive=True, quality=10),
    "comment": saved(picture(8, 8), comment=b"\xff\xda\xff\xd9"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_known_head_changes_no_answer(name):
    """What the head that was seen last says is what the walk through all markers says, for every mutation of each picture."""
    data = HEADS[name]
    height, width = Image.open(io.BytesIO(data)).size[::-1]
    taken = 0
    for changed in mutations(data):
        frames._accepted.clear()
        unknown = frames.is_stored_form(changed, height, width)
        assert frames.is_stored_form(data, height, width) and frames._accepted
        assert frames.is_stored_form(changed, height, width) == unknown == (frames._walk(changed, height, width) is not None), changed
        taken += unknown
    assert 0 < taken < len(list(mutations(data)))


def test_a_head_is_known_for_its_size_alone():
    data = saved(picture())
    assert frames.is_stored_form(data, 32, 16) and not frames.is_stored_form(data, 16, 32) and not frames.is_stored_form(data, 32, 17)


def test_negative_control_a_head_that_was_not_accepted(monkeypatch):
    """If anything of the head were forgotten, the mutations above would show it."""
    data = saved(picture(8, 8))
    head = frames._walk(data, 8, 8)
    grey = data[:head].replace(b"\xff\xdb", b"\xff\xfe") + data[head:]  # no tables: nothing could decode it
    assert not frames.is_stored_form(grey, 8, 8)
    monkeypatch.setitem(frames._accepted, (8, 8), grey[:head])
    assert frames.is_stored_form(grey, 8, 8)


def test_damage_gives_a_jpeg_or_a_reason():
    """Promise R4: cut, flipped, mixed up."""
    draw = rng(1, "fuzz")
    sources = [*OTHERS.values(), saved(picture()), saved(picture(), progressive=True)]
    counts = {"jpeg": 0, **dict.fromkeys(REASONS, 0)}
    for number in range(600):
        data = bytearray(sources[number % len(sources)])
        how = number % 4
        if how == 0:
            del data[int(draw.integers(len(data))) :]
        elif how == 1:
            for at in draw.integers(len(data), size=4):
                data[at] ^= 1 << int(draw.integers(8))
        elif how == 2:
            a, b = sorted(draw.integers(len(data), size=2).tolist())
            del data[a:b]
        else:
            data[: int(draw.integers(1, 64))] = draw.bytes(32)
        try:
            made, _ = frames.encode(bytes(data), CONFIG)
            assert frames.is_stored_form(made, 32, 16)
            counts["jpeg"] += 1
        except MediaError as error:
            counts[error.reason] += 1
    assert set(counts) == {"jpeg", *REASONS} and counts["jpeg"] > 50 and counts["unreadable"] > 50 and counts["truncated"] > 20


@pytest.mark.real_data
def test_hostile_pictures(real_data):
    folder = real_data / "hostile_media" / "image"
    found = {}
    for path in sorted(folder.iterdir()):
        try:
            made, resized = frames.encode(path.read_bytes(), FramesConfig())
            assert resized and frames.is_stored_form(made, 256, 128)
            found[path.name] = "made"
        except MediaError as error:
            found[path.name] = error.reason
        for known in (b"", saved(picture(128, 256))):
            frames._accepted.clear()
            assert not known or frames.is_stored_form(known, 256, 128)
            data = path.read_bytes()
            assert frames.is_stored_form(data, 256, 128) == (frames._walk(data, 256, 128) is not None)
    assert len(found) == 30
    assert found["empty.jpg"] == "empty" and found["max_size.jpg"] == "too large" and found["truncated_jpeg.jpg"] == "truncated"
    assert found["null_height.jpg"] == found["missing-sos.jpg"] == "unreadable"
    made = (
        "hopper.jpg",
        "hopper_gray.jpg",
        "pil_sample_cmyk.jpg",
        "i_trns.png",
        "frame_size.mpo",
        "broken_exif_dpi.jpg",
        "hopper_orientation_6.jpg",
    )
    assert all(found[name] == "made" for name in made)


@pytest.mark.real_data
def test_real_frames_are_taken_as_they_are(real_data):
    paths = sorted((real_data / "real_mini" / "mars").rglob("*.jpg"))
    read = [path.read_bytes() for path in paths]
    assert len(read) == 339 and all(frames.encode(data, FramesConfig()) == (data, False) for data in read)
    assert all(frames._walk(data, 256, 128) == len(frames._accepted[256, 128]) for data in read)  # one head, so 338 were not walked through


def directories(count: int, tags: int) -> bytes:
    """A TIFF whose first directory names `count` further ones, of `tags` tags of no values each."""
    size = 2 + 12 * tags
    at = [8 + 2 + 12 * count + n * size for n in range(count)]
    first = struct.pack("<IH", 8, count) + b"".join(struct.pack("<HHII", 0x8769, 4, 0, offset) for offset in at)
    return b"II*\0" + first + (struct.pack("<H", tags) + struct.pack("<HHII", 1000, 1, 0, 0) * tags) * count


BOMBS = {
    "pixels": (saved(Image.new("RGB", (1, 1)), "BMP").replace(struct.pack("<ii", 1, 1), struct.pack("<ii", 4096, 3073)), "4096 x 3073 pixels"),
    "scans": (saved(picture(64, 64), progressive=True)[:-2] + b"\xff\xda\0\2" * 100 + b"\xff\xd9", "scans of 64 x 64 pixels, at most 100"),
    "segments": (b"\xff\xd8" + b"\xff\xfe\0\2" * 8193 + saved(picture())[2:], "more than 8192 segments and fill bytes"),
    "fill": (b"\xff\xd8" + b"\xff" * 9000 + saved(picture())[2:], "more than 8192 segments and fill bytes"),
    "chunks": (saved(picture(), "PNG")[:33] + (bytes(4) + b"teXt" + bytes(4)) * 8193, "more than 8192 chunks"),
    "EXIF": (b"\xff\xd8" + (b"\xff\xe1\xff\xffExif\0\0" + bytes(65527)) * 2 + saved(picture())[2:], "131070 bytes of EXIF, at most 65536"),
    "strips": (b"II*\0" + struct.pack("<IHHHIIII", 8, 1, 273, 4, 65537, 8, 0, 0) + bytes(300_000), "tag 273 of the TIFF claims 65537 values"),
    "tags": (b"II*\0" + struct.pack("<IH", 8, 2) + struct.pack("<HHII", 700, 7, 900, 8) * 2 + bytes(1000), "claim 1800 bytes or more, the file has 1034"),
    "directories": (directories(20, 1), "more than 8 directories in the TIFF"),
    "tags of directories": (directories(3, 3000), "more than 8192 tags in the TIFF"),
    "BigTIFF": (b"II+\0" + bytes(60), "a BigTIFF"),
    "text": (b"P3\n2 2\n255\n" + b"1 " * 12, "no PPM of binary numbers"),
    "a long head": (b"P6\n#" + b"x" * 5000 + b"\n1 1\n255\n123", "no PPM of binary numbers"),
    "run lengths": (b"BM" + bytes(28) + b"\1\0\0\0" + bytes(40), "a BMP with run lengths"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_what_would_take_long_is_refused_before_it_is_decoded(name, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", None)
    data, said = BOMBS[name]
    with pytest.raises(MediaError, match=said):
        frames.encode(data, CONFIG)


def test_a_file_larger_than_all_pixels_is_not_even_looked_at(monkeypatch):
    monkeypatch.setattr(pictures, "BYTES", 700)
    assert not frames.is_stored_form(saved(picture()) * 3, 32, 16)
    with pytest.raises(MediaError, match="too large: more than 700 bytes"):
        frames.encode(bytes(701), CONFIG)


def test_hundred_scans_are_taken_as_they_are_and_one_more_is_not():
    data = saved(picture(), progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    for more in (SCANS - data.count(b"\xff\xda"), SCANS - data.count(b"\xff\xda") + 1):
        made = data[:-2] + scan * more + data[-2:]
        assert frames.is_stored_form(made, 32, 16) == (made.count(b"\xff\xda") <= SCANS)


def test_with_check_a_frame_that_is_taken_as_it_is_is_decoded_before():
    data = saved(picture())
    at = data.index(b"\xff\xc4") + 5
    damaged = data[:at] + b"\xff" + data[at + 1 :]  # a table of more codes than there can be; markers and lengths are right
    assert frames.encode(damaged, CONFIG) == (damaged, False)
    with pytest.raises(MediaError, match="unreadable"):
        frames.encode(damaged, replace(CONFIG, check=True))
    assert frames.encode(data, replace(CONFIG, check=True)) == (data, False)


@pytest.mark.parametrize("size", [(4096, 2160), (4000, 3000)])
def test_whole_frames_of_large_cameras_are_taken(size):
    for kind in ("JPEG", "BMP"):
        assert frames.encode(saved(Image.new("RGB", size), kind), CONFIG)[1]
