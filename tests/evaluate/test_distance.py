"""Distances against float64, where float32 products would fail, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from evaluate import distance
from evaluate.distance import Rows, first_equal, pair_distances, squared_distances, together
from pipeline.base.errors import ScoreError


def exact(queries, gallery):
    return ((queries.astype(float)[:, None] - gallery.astype(float)[None]) ** 2).sum(-1)


def all_blocks(queries, gallery, block=256):
    return np.concatenate(list(squared_distances(queries, gallery, block)))


def test_by_hand():
    queries, gallery = np.array([[0, 0], [3, 4]], np.float32), np.array([[3, 4], [0, 0], [0, 1]], np.float32)
    assert all_blocks(queries, gallery).tolist() == [[25, 0, 1], [0, 25, 18]]


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (100.0, 1e-3), (-5.0, 10.0)])
def test_close_to_float64_wherever_the_cloud_lies(offset, spread):
    random = np.random.default_rng(0)
    gallery = (offset + spread * random.normal(size=(60, 32))).astype(np.float32)
    queries = (offset + spread * random.normal(size=(20, 32))).astype(np.float32)
    queries[:5] = gallery[:5]
    queries[5:10] = gallery[5:10] + np.float32(spread / 50)
    expected, found = exact(queries, gallery), all_blocks(queries, gallery, block=7)
    assert found.dtype == np.float32
    assert found == pytest.approx(expected, rel=1e-5, abs=0)
    assert (np.diag(found)[:5] == 0).all()


def test_plain_float32_would_fail_here():
    """Negative control: the formula without our measures loses every digit far from the origin."""
    random = np.random.default_rng(0)
    gallery = (100 + 1e-3 * random.normal(size=(60, 32))).astype(np.float32)
    plain = (gallery**2).sum(1)[:, None] + (gallery**2).sum(1) - 2 * gallery @ gallery.T
    off = ~np.eye(60, dtype=bool)
    expected = exact(gallery, gallery)[off]
    assert (np.abs(plain[off] - expected) / expected).max() > 1
    assert (np.abs(all_blocks(gallery, gallery)[off] - expected) / expected).max() < 1e-5


def test_the_gallery_mean_alone_is_not_enough_for_near_pairs():
    """Two far clusters: within a cluster, distances are tiny against the norms."""
    random = np.random.default_rng(0)
    gallery = (1e-4 * random.normal(size=(40, 16)) + np.repeat([-50, 50], 20)[:, None]).astype(np.float32)
    assert all_blocks(gallery[:3], gallery) == pytest.approx(exact(gallery[:3], gallery), rel=1e-5, abs=0)


def test_equal_gallery_vectors_tie_exactly_wherever_they_stand():
    """A bare matrix product fails this for sizes like these."""
    random = np.random.default_rng(0)
    queries = random.normal(size=(70, 129)).astype(np.float32)
    gallery = random.normal(size=(333, 129)).astype(np.float32)
    gallery[[5, 100, 332]] = gallery[17]
    found = all_blocks(queries, gallery)
    assert (found[:, [5, 100, 332]] == found[:, [17]]).all()
    assert found == pytest.approx(exact(queries, gallery), rel=1e-5)


@pytest.mark.parametrize("power", [-140, -80, -75, -40, 40, 60, 110])
def test_vectors_of_any_length_keep_their_digits(power):
    """At -75 and below, squares leave the range of float32; above 60, too."""
    random = np.random.default_rng(0)
    queries, gallery = (np.ldexp(random.normal(size=(n, 32)), power).astype(np.float32) for n in (20, 60))
    queries[:5] = gallery[:5] * np.float32(1.0001)
    gallery[[7, 50]] = gallery[3]
    made = squared_distances(queries, gallery, 7)
    found, expected = np.concatenate(list(made.blocks())).astype(float) * made.unit, exact(queries, gallery)
    assert found == pytest.approx(expected, rel=1e-5, abs=0)
    assert (found[:, [7, 50]] == found[:, [3]]).all()
    assert (made.unit == 1) == (power == 40)


def test_plain_float32_would_lose_short_vectors():
    """Negative control: at 1e-24 every square is 0."""
    gallery = np.ldexp(np.random.default_rng(0).normal(size=(60, 32)), -80).astype(np.float32)
    assert not (gallery @ gallery.T).any() and not (gallery**2).any()


@pytest.mark.parametrize(("side", "row"), [("queries", 4), ("gallery", 9), ("gallery", 20)])
def test_distances_that_float32_does_not_hold_are_not_handed_out_as_if_it_did(side, row):
    """Row 20 repeats row 1: the gallery's own rows are named, not those of its different vectors."""
    sets = {name: np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32) for name, n in (("queries", 6), ("gallery", 30))}
    sets["gallery"][5] = sets["gallery"][1]
    assert len(list(squared_distances(**sets))) == 1
    sets[side][row] *= np.float32(1e20)
    with pytest.raises(ScoreError, match=rf"{side}: row {row} is \d.*e\+20 from the mean of the gallery, .* do not fit float32; scale"):
        list(squared_distances(**sets))
    assert all(np.isfinite(rows).all() for rows in squared_distances(**sets).blocks())


def in_order(a, b, out):
    """A product that adds one number after the other: the worst order there is."""
    np.copyto(out, np.cumsum(a[:, None, :] * b.T[None], axis=2, dtype=np.float32)[:, :, -1])
    return out


@pytest.mark.parametrize("product", [np.matmul, in_order])
@pytest.mark.parametrize("width", [5, 64, 256, 384, 700, 1100])
@pytest.mark.parametrize("kind", ["one number", "signs", "normal", "integers"])
def test_errors_stay_within_the_bound(monkeypatch, kind, width, product):
    """Vectors of one number each are the worst: every addition rounds the same way."""
    queries, gallery = structured(kind, width)
    monkeypatch.setattr(np, "matmul", product)
    made = squared_distances(queries, gallery)
    found, expected = np.concatenate(list(made)), exact(queries, gallery)
    assert (np.abs(found - expected) <= made.error * (made._own[:, None] + made._norm)).all()
    assert (np.abs(found - expected) <= made.relative * expected).all()


def structured(kind, width):
    random = np.random.default_rng(width)
    if kind == "normal":
        return [random.normal(size=(n, width)).astype(np.float32) for n in (10, 40)]
    if kind == "integers":
        return [random.integers(0, 5, (n, width)).astype(np.float32) for n in (10, 40)]
    pattern = random.choice([-1, 1], width) if kind == "signs" else np.ones(width)
    return [(random.uniform(0.3, 3, (n, 1)) * sign * pattern).astype(np.float32) for n, sign in ((10, 1), (40, random.choice([-1, 1])))]


def test_longer_sums_would_exceed_that_bound(monkeypatch):
    """Negative control: a bound for sums of 16 numbers does not hold for sums of 256."""
    queries, gallery = structured("one number", 1100)
    monkeypatch.setattr(np, "matmul", in_order)
    made = squared_distances(queries, gallery)
    found, expected = np.concatenate(list(made)), exact(queries, gallery)
    assert (np.abs(found - expected) > made.error * (16 + 12) / (256 + 12) * (made._own[:, None] + made._norm)).any()


def test_rows_of_a_larger_set_are_as_a_copy_of_them(tiled):
    """The same bits, with repeats, and joined."""
    queries, gallery = tiled
    random = np.random.default_rng(1)
    both = np.concatenate([queries, gallery])[random.permutation(len(queries) + len(gallery))]
    asked, entries = random.permutation(len(both))[:60], random.permutation(len(both))[:300]
    found, copied = all_blocks(Rows(both, asked), Rows(both, entries)), all_blocks(both[asked], both[entries])
    assert found.shape == (60, 300) and found.tobytes() == copied.tobytes()
    whole = together(Rows(both, asked), Rows(both, entries))
    assert isinstance(whole, Rows) and whole.vectors is both and (whole[:] == both[np.concatenate([asked, entries])]).all()
    assert (together(both[asked], Rows(both, entries))[:] == whole[:]).all()
    assert found.tobytes() != all_blocks(Rows(both, asked), Rows(both, entries[::-1])).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_no_number_is_refused(bad):
    broken = np.zeros((3, 2), np.float32)
    broken[1, 0] = bad
    with pytest.raises(ScoreError, match=r"gallery: 1 of 3 vectors .* row 1"):
        all_blocks(np.zeros((1, 2), np.float32), broken)


def test_different_widths_are_refused():
    with pytest.raises(ScoreError, match="one D"):
        all_blocks(np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32))


def test_what_is_no_number_is_found_in_every_tile():
    broken = np.zeros((2 * distance.TILE + 5, 2), np.float32)
    broken[[distance.TILE + 1, 2 * distance.TILE + 4], 1] = np.nan
    with pytest.raises(ScoreError, match=rf"queries: 2 of {len(broken)} vectors .* row {distance.TILE + 1};"):
        all_blocks(broken, np.zeros((1, 2), np.float32))


@pytest.mark.parametrize(("gallery", "block"), [(0, 256), (3, 0)])
def test_no_gallery_and_no_block_are_refused(gallery, block):
    with pytest.raises(ScoreError, match=f"a gallery of {gallery} vectors in blocks of {block}"):
        all_blocks(np.zeros((1, 2), np.float32), np.zeros((gallery, 2), np.float32), block)


def pairs_at(ratio, random, width=512, count=300):
    """As many queries as gallery entries; query i is at about `ratio` (|q|^2 + |g|^2) from entry i and far from all others."""
    gallery = (np.abs(random.normal(size=(count, width))) + 3).astype(np.float32)
    norm = ((gallery - gallery.mean(0)) ** 2).sum(1)
    noise = random.normal(size=(count, width)) * np.sqrt(2 * norm * ratio / width)[:, None]
    return (gallery + noise).astype(np.float32), gallery


@pytest.mark.parametrize("ratio", [1e-9, 1e-7, 1e-6, 2e-6, 1e-4, 0.01, 0.02, 0.05, 0.14, 0.16, 0.2])
@pytest.mark.parametrize("many", [0.02, 0.0])
def test_near_entries_keep_their_digits_on_both_sides_of_every_border(monkeypatch, ratio, many):
    """By single differences, and (many=0) by a float64 product of the whole tile."""
    monkeypatch.setattr(distance, "MANY", many)
    queries, gallery = pairs_at(ratio, np.random.default_rng(0))
    found, expected = np.diag(all_blocks(queries, gallery)), ((queries.astype(float) - gallery) ** 2).sum(1)
    assert (np.abs(found - expected) / expected).max() < 1e-5


def test_a_lower_border_would_lose_digits(monkeypatch):
    """Negative control: at 0.02 of the norms, float32 products alone are off by more than 1e-5."""
    monkeypatch.setattr(distance, "NEAR", 0.01)
    queries, gallery = pairs_at(0.02, np.random.default_rng(0))
    found, expected = np.diag(all_blocks(queries, gallery)), ((queries.astype(float) - gallery) ** 2).sum(1)
    assert (np.abs(found - expected) / expected).max() > 1e-5


def test_a_float64_product_alone_would_lose_the_nearest(monkeypatch):
    """Negative control: without NEAREST, equal vectors of numbers of all sizes are not at distance 0."""
    gallery = np.exp(3 * np.random.default_rng(0).normal(size=(300, 512))).astype(np.float32)
    monkeypatch.setattr(distance, "MANY", 0.0)
    assert (np.diag(all_blocks(gallery, gallery)) == 0).all()
    monkeypatch.setattr(distance, "NEAREST", -1.0)
    assert (np.diag(all_blocks(gallery, gallery)) != 0).any()


@pytest.fixture
def tiled(monkeypatch):
    """70 queries in panels of 16 and 333 entries in tiles of 50, the last ones shorter; rows 5, 100, 332 repeat row 17."""
    monkeypatch.setattr(distance, "TILE", 50)
    monkeypatch.setattr(distance, "_BLOCK_BYTES", 0)
    random = np.random.default_rng(0)
    queries, gallery = (random.normal(size=(n, 129)).astype(np.float32) for n in (70, 333))
    gallery[[5, 100, 332]] = gallery[17]
    queries[[3, 60]] = gallery[17]
    return queries, gallery


def test_ties_across_tiles(tiled):
    queries, gallery = tiled
    found = all_blocks(queries, gallery)
    assert (found[:, [5, 100, 332]] == found[:, [17]]).all() and (found[[3, 60], 17] == 0).all()
    assert found == pytest.approx(exact(queries, gallery), rel=1e-5)


def test_repeats_that_are_not_looked_for_do_not_tie(tiled, monkeypatch):
    """Negative control: the plain product of the same tiles rounds equal columns differently."""
    monkeypatch.setattr(distance, "first_equal", lambda vectors: np.arange(len(vectors)))
    monkeypatch.setattr(np, "matmul", uneven_product)
    found = all_blocks(*tiled)
    assert (found[:, [5, 100, 332]] != found[:, [17]]).any()


def uneven_product(a, b, out):
    """A product that adds in another order in every other column, as some processors' do."""
    np.copyto(out, a @ b)
    out[:, ::2] = (a[:, ::-1] @ b[::-1])[:, ::2]
    return out


def test_ties_hold_whatever_the_product_does(tiled, monkeypatch):
    monkeypatch.setattr(np, "matmul", uneven_product)
    found = all_blocks(*tiled)
    assert (found[:, [5, 100, 332]] == found[:, [17]]).all()


def by_shape(a, b, out):
    """A product whose order of adding depends on its shape, as real ones do where they are small or at an edge."""
    np.copyto(out, a @ b if len(a) % 16 == 0 else a[:, ::-1] @ b[::-1])
    return out


@pytest.mark.parametrize("block", [1, 3, 16, 17, 69, 1000])
@pytest.mark.parametrize("product", [np.matmul, by_shape])
def test_every_block_size_gives_the_same_bits(tiled, monkeypatch, block, product):
    monkeypatch.setattr(np, "matmul", product)
    queries, gallery = tiled
    blocks = list(squared_distances(queries, gallery, block))
    assert max(len(rows) for rows in blocks) == min(block, 16)
    assert np.concatenate(blocks).tobytes() == all_blocks(queries, gallery).tobytes()


def test_products_cut_by_the_block_would_give_other_bits(tiled, monkeypatch):
    """Negative control: the same queries one by one, each with a product of its own."""
    monkeypatch.setattr(np, "matmul", by_shape)
    queries, gallery = tiled
    whole, one_by_one = all_blocks(queries, gallery), np.concatenate([all_blocks(row[None], gallery) for row in queries])
    assert one_by_one.tobytes() != whole.tobytes()
    assert one_by_one == pytest.approx(whole, rel=1e-5)


def test_a_large_gallery_has_small_blocks():
    gallery = np.zeros((1_100_000, 1), np.float32)
    gallery[:, 0] = np.arange(len(gallery))
    assert [len(rows) for rows in squared_distances(gallery[:17], gallery)] == [16, 1]


def test_minus_zero_is_zero():
    gallery = np.array([[0.0, 1.0], [-0.0, 1.0], [0.0, -1.0]], np.float32)
    assert first_equal(gallery).tolist() == [0, 0, 2]
    assert all_blocks(gallery, gallery).tolist() == [[0, 0, 4], [0, 0, 4], [4, 4, 0]]


def reference_first_equal(vectors):
    seen: dict[tuple, int] = {}
    return [seen.setdefault(tuple(row), i) for i, row in enumerate(vectors.tolist())]


@pytest.mark.parametrize("hashes", ["own", "all alike", "two"])
def test_equal_rows_are_found_even_where_hashes_collide(monkeypatch, hashes):
    monkeypatch.setattr(distance, "TILE", 7)
    monkeypatch.setattr(distance, "_HASH_ROWS", 5)
    if hashes != "own":
        monkeypatch.setattr(distance, "_hashes", lambda v: (v[:, 0] > 1).astype(np.uint64) * np.uint64(hashes == "two"))
    vectors = np.random.default_rng(0).integers(0, 3, (60, 3)).astype(np.float32)
    assert first_equal(vectors).tolist() == reference_first_equal(vectors)


def test_a_hash_alone_is_not_enough(monkeypatch):
    """Negative control: if a shared hash were taken for equality, different rows would be one."""
    monkeypatch.setattr(distance, "_hashes", lambda v: np.zeros(len(v), np.uint64))
    monkeypatch.setattr(distance, "_equal", lambda vectors, a, b: np.ones(len(a), bool))
    vectors = np.arange(6, dtype=np.float32).reshape(3, 2)
    assert first_equal(vectors).tolist() != reference_first_equal(vectors)


def test_hashes_of_all_rows_differ_if_the_rows_do():
    """One changed number in any place changes the hash; a permutation of numbers, too."""
    vectors = np.repeat(np.random.default_rng(0).normal(size=(1, 40)).astype(np.float32), 42, axis=0)
    vectors[np.arange(40), np.arange(40)] += 1
    vectors[40] = vectors[41][::-1]
    assert len(np.unique(distance._hashes(vectors))) == 42


def test_single_pairs_are_exact_for_integers():
    random = np.random.default_rng(0)
    left, right = (random.integers(-9, 9, (n, 5)).astype(np.float32) for n in (8, 6))
    i, j = np.repeat(np.arange(8), 6), np.tile(np.arange(6), 8)
    assert pair_distances(left, i, right, j).tolist() == exact(left, right).ravel().tolist()
