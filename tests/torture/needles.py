"""Look for secrets in everything that a run wrote: whole, in parts, in another form, behind compression.

In:      secrets (names of speakers, marks put into a table), a folder.   Out: which file holds which.
Source:  promise "`client_id` never leaves the source table".
"""

from __future__ import annotations

import base64
import binascii
import gzip
import re
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PART = 16
"""Characters of a secret that count as a leak."""
_TABLE_BITS = 20


class Needles:
    """Secrets in all forms in which they are looked for: any 16 characters of each as text (UTF-8, UTF-16), as hex digits, in base64 at
    any place of a longer text, and, of secrets that are hex digits themselves, the bytes that these spell, and base64 of these bytes.

    Args:
        secrets: each of 16 characters or more.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = sorted(set(secrets))
        self._known: dict[int, dict[bytes, int]] = defaultdict(dict)
        for number, secret in enumerate(self.secrets):
            assert len(secret) >= PART, "too short to be told from chance"
            for form in _forms(secret):
                self._known[len(form)].setdefault(form, number)
        self._begins = np.zeros(1 << _TABLE_BITS, bool)
        for forms in self._known.values():
            first = np.frombuffer(b"".join(form[:4] for form in forms), "<u4")
            self._begins[_place(first)] = True

    def find(self, data: bytes | memoryview) -> set[str]:
        """Secrets that the data hold some part of, in some form."""
        view = memoryview(data)
        hits: set[int] = set()
        for phase in range(4):
            words = np.frombuffer(view, "<u4", (len(view) - phase) // 4, phase) if len(view) >= phase + 4 else np.zeros(0, "<u4")
            for at in (np.flatnonzero(self._begins[_place(words)]) * 4 + phase).tolist():
                hits.update(forms[piece] for size, forms in self._known.items() if (piece := bytes(view[at : at + size])) in forms)
        return {self.secrets[number] for number in hits}


def _place(words: np.ndarray) -> np.ndarray:
    return (words * np.uint32(2654435761)) >> np.uint32(32 - _TABLE_BITS)


def _forms(secret: str) -> Iterator[bytes]:
    text = secret.encode()
    for part in _windows(text, PART):
        yield part
        yield binascii.hexlify(part)
        yield binascii.hexlify(part).upper()
        yield part.decode("latin-1").encode("utf-16-le")
    yield from _base64(text, PART - 2)  # 14 of 16 characters begin at a border of three bytes, wherever they lie
    if re.fullmatch("(?:[0-9a-f]{2})+", secret):
        spelt = binascii.unhexlify(secret)
        yield from _windows(spelt, PART // 2)
        yield from _base64(spelt, PART // 2 - 2)


def _base64(data: bytes, size: int) -> Iterator[bytes]:
    digits = size * 8 // 6
    for part in _windows(data, size):
        yield base64.b64encode(part)[:digits]
        yield base64.urlsafe_b64encode(part)[:digits]


def _windows(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(len(data) - size + 1))


# --- files -----------------------------------------------------------------------------------------------------------


def contents(path: Path) -> Iterator[bytes | memoryview]:
    """All that a file says: its bytes, and what they are when unpacked (Parquet column by column, with its notes; gzip; zip)."""
    data = path.read_bytes()
    yield data
    if data[:4] == b"PAR1":
        with pq.ParquetFile(path) as file:
            yield from (item for pair in (file.metadata.metadata or {}).items() for item in pair)
            for name, column in zip(file.schema_arrow.names, file.read().columns, strict=True):
                yield name.encode()
                for chunk in column.chunks:
                    whole = chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
                    yield from (memoryview(buffer) for buffer in whole.buffers() if buffer)
    elif data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)
    elif data[:4] == b"PK\x03\x04":
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name) for name in archive.namelist())


def written(folder: Path) -> list[Path]:
    """Every file below the folder of a run, hidden ones too, but for the generated tables of clips, which are the source."""
    source = folder / "results/demo/common_voice"
    return sorted(path for path in folder.rglob("*") if path.is_file() and not (path.suffix == ".tsv" and source in path.parents))


def leaks(folder: Path, files: Iterable[Path], needles: Needles) -> list[tuple[str, str]]:
    """(file, secret) of all that leaked; the file's name counts, too."""
    found = []
    for path in files:
        name = str(path.relative_to(folder))
        hits = needles.find(name.encode())
        for data in contents(path):
            hits |= needles.find(data)
        found += [(name, secret) for secret in sorted(hits)]
    return found
