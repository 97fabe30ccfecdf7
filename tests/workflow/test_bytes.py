"""The same inputs give the same bytes: every manifest, shard and index, whatever the machine does (slow).

The second run differs in everything that must not matter: number of cores, order of directory listings, time zone,
hash seed and umask. The negative control changes one thing that does matter.
"""

from __future__ import annotations

import os

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.circumstances import SHUFFLED, differing, digests, marks, site
from tests.workflow.conftest import snakemake

pytestmark = pytest.mark.slow
TINY = str(REPOSITORY / "workflow/config/tiny.yaml")


def test_cores_listing_order_time_zone_hash_seed_and_umask_do_not_matter(tiny_run, tmp_path):
    other = tmp_path / "run"
    other.mkdir()
    environment = {**site(tmp_path / "site", SHUFFLED), "TZ": "Asia/Kolkata", "PYTHONHASHSEED": "4242"}
    before = os.umask(0o077)
    try:
        done = snakemake(other, "--configfile", TINY, "--", "data", cores=1, environment=environment)
    finally:
        os.umask(before)
    assert done.returncode == 0, done.stdout[-4000:]
    assert marks(tmp_path / "site", "shuffled"), "the shuffled listing was not in force"
    first, second = digests(tiny_run[0]), digests(other)
    assert len(first) > 100
    assert differing(first, second) == []


def test_another_seed_gives_other_bytes(tiny_run, tmp_path):
    done = snakemake(tmp_path, "--configfile", TINY, "--config", "demo={seed: 8}", "--", "data")
    assert done.returncode == 0, done.stdout[-4000:]
    first, second = digests(tiny_run[0]), digests(tmp_path)
    tars = [name for name in first if name.endswith(".tar")]
    assert tars and all(first[name] != second.get(name) for name in tars)
