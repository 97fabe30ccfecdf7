"""The same inputs give the same bytes: every manifest, shard and index, whatever the machine does (slow).

The second run differs in everything that must not matter: number of cores, order of directory listings, time zone,
hash seed and umask. The negative control changes one thing that does matter.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.conftest import snakemake

pytestmark = pytest.mark.slow
TINY = str(REPOSITORY / "workflow/config/tiny.yaml")
STAGES = ("demo", "tracklets", "splits", "items", "alignment", "plans", "features", "shards")

SHUFFLED = """
import os, random
_listdir, _scandir = os.listdir, os.scandir

def listdir(*arguments):
    names = _listdir(*arguments)
    random.shuffle(names)
    return names

class scandir:
    def __init__(self, *arguments):
        with _scandir(*arguments) as entries:
            self.entries = list(entries)
        random.shuffle(self.entries)
        open(os.environ["SHUFFLED_MARK"], "a").close()
    def __iter__(self):
        return iter(self.entries)
    def __next__(self):
        if not self.entries:
            raise StopIteration
        return self.entries.pop()
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass
    def close(self):
        pass

os.listdir, os.scandir = listdir, scandir
"""


def digests(folder: Path) -> dict[str, str]:
    results = folder / "results"
    files = [path for stage in STAGES for path in sorted((results / stage).rglob("*")) if path.is_file()]
    return {str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_cores_listing_order_time_zone_hash_seed_and_umask_do_not_matter(tiny_run, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SHUFFLED)
    mark = tmp_path / "mark"
    other = tmp_path / "run"
    other.mkdir()
    environment = {"PYTHONPATH": str(tmp_path / "site"), "SHUFFLED_MARK": str(mark), "TZ": "Asia/Kolkata", "PYTHONHASHSEED": "4242"}
    before = os.umask(0o077)
    try:
        done = snakemake(other, "--configfile", TINY, "--", "data", cores=1, environment=environment)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stdout[-4000:]
    assert mark.exists(), "the shuffled listing was not in force"
    first, second = digests(tiny_run[0]), digests(other)
    assert len(first) > 100
    assert {name for name in first if first[name] != second.get(name)} == set()
    assert first == second


def test_another_seed_gives_other_bytes(tiny_run, tmp_path):
    done = snakemake(tmp_path, "--configfile", TINY, "--config", "demo={seed: 8}", "--", "data")
    assert done.returncode == 0, done.stdout[-4000:]
    first, second = digests(tiny_run[0]), digests(tmp_path)
    tars = [name for name in first if name.endswith(".tar")]
    assert tars and all(first[name] != second.get(name) for name in tars)
