"""Fast forms of `torture_voices`: single steps on a hand-made tree, each with what must not pass."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from evaluate.report_page.markup import el
from evaluate.report_page.media import Media
from pipeline.base import tables, withdrawn
from pipeline.base.errors import SourceError, UserError
from pipeline.base.files import read_json, write_json
from shards import withdraw, withdrawal
from tests.torture import taken_out, torture_voices, voices_tree
from tests.torture.needles import Needles
from tests.torture.voices_tree import said

CLIENTS = [voices_tree.client(speaker) for speaker in range(len(voices_tree.SPEAKERS))]
STORES = ("audio", "audio_random")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A finished tree; copy it before you change it."""
    folder = voices_tree.build(tmp_path_factory.mktemp("voices"))
    voices_tree.make(folder, STORES)
    return folder


@pytest.fixture
def tree(made, tmp_path):
    return shutil.copytree(made, tmp_path / "tree")


def names_of(folder, companion="audio"):
    return tables.read(folder / f"results/alignment/made-{companion}.parquet", tables.ALIGNMENT).column("item").to_pylist()


# --- who a speaker is ------------------------------------------------------------------------------------------------


def test_no_speaker_and_no_cell_is_in_what_the_steps_write(made):
    files = torture_voices.grep(made / "results", Needles([*CLIENTS, *marks(made)]))
    assert files.files > 30 and files.secrets > 100
    assert files.found == []


def marks(folder):
    return torture_voices.unread([line.split("\t") for line in (folder / "voices/train.tsv").read_text().splitlines()])


def test_readers_that_let_a_name_through_are_caught(made, tmp_path):
    tried, caught = torture_voices.leaky_caught(made / "voices", tmp_path, Needles(CLIENTS))
    assert tried == caught == 7


def test_a_name_is_found_in_files_of_every_kind(tmp_path):
    tried, found = torture_voices.planted_found(tmp_path, CLIENTS)
    assert tried == found == 6
    assert Needles(CLIENTS).find(CLIENTS[0][:15].encode()) == set()  # 15 characters are chance


def test_no_message_about_a_damaged_table_repeats_it(made, tmp_path):
    tried, bad, refused = torture_voices.repeated(tmp_path, made / "voices", most=40)
    assert tried > 20 and refused > 10
    assert bad == []


def test_a_message_that_repeats_the_table_is_caught(made, tmp_path):
    with torture_voices.talkative():
        assert torture_voices.repeated(tmp_path, made / "voices", most=40)[1]


@pytest.mark.real_data
def test_real_tables_leave_nothing_of_their_speakers(real_data, tmp_path):
    files, found, secrets = torture_voices.real(tmp_path)
    assert files == 6 and secrets > 100
    assert found == []


# --- the rule --------------------------------------------------------------------------------------------------------


def row(tracklet, first, item, owner="x"):
    return {"tracklet": tracklet, "first": first, "item": item, "owner": owner}


def instead(rows, *gone, policy="id_speaker"):
    return {item: other and other["item"] for (_, item), other in withdrawn.stand_ins(rows, gone, policy).items()}


def test_the_next_clip_that_is_left_takes_the_place_and_after_the_last_the_first():
    rows = [row("b", 0, "4"), row("a", 6, "2"), row("a", 12, "3"), row("a", 0, "1")]
    assert instead(rows, "2") == {"2": "3"}
    assert instead(rows, "2", "3") == {"2": "4", "3": "4"}
    assert instead(rows, "3", "4") == {"3": "1", "4": "1"}
    assert instead(rows, "9") == {}


def test_another_owner_takes_no_place_but_where_owners_mean_nothing():
    rows = [row("a", 0, "1", "x"), row("b", 0, "2", "y")]
    assert instead(rows, "1") == {"1": None}
    assert withdrawn.alone(rows, {"1"}, "id_speaker") == {"1"}
    assert instead(rows, "1", policy="random_clip") == {"1": "2"}
    assert withdrawn.alone(rows, {"1"}, "recorded") == set()


@pytest.mark.parametrize("seeds", [range(40)])
def test_one_by_one_all_at_once_and_before_it_is_made_are_the_same(seeds):
    verdicts = [taken_out.compared(seed) for seed in seeds]
    assert "differs" not in verdicts and verdicts.count("same") > 20


@pytest.mark.parametrize("name", sorted(taken_out.broken_rules()))
def test_rules_that_look_right_are_caught(name):
    with taken_out.broken_rules()[name]:
        assert "differs" in {taken_out.compared(seed) for seed in range(40)}


def test_the_list_keeps_comments_and_says_which_line_is_wrong(tmp_path):
    assert withdrawn.read_list(tmp_path) == {}
    (tmp_path / "withdrawn.txt").write_text("# asked for on Monday\nb\n\na\tunusable\n")
    assert withdrawn.read_list(tmp_path) == {"a": False, "b": True}
    withdrawn.write_list(tmp_path, {"c": True, **withdrawn.read_list(tmp_path)})
    assert (tmp_path / "withdrawn.txt").read_text() == "# asked for on Monday\na\tunusable\nb\nc\n"
    (tmp_path / "withdrawn.txt").write_text("a\nb\tgone\n")
    with pytest.raises(SourceError, match=r"withdrawn\.txt: line 2: 'gone' behind the clip"):
        withdrawn.read_list(tmp_path)
    (tmp_path / "withdrawn.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(SourceError, match="cannot be read"):
        withdrawn.read_list(tmp_path)


# --- taking a clip out -----------------------------------------------------------------------------------------------


def test_only_the_shards_that_hear_a_clip_are_made_again_and_nothing_of_it_is_left(tree):
    results = tree / "results"
    before, wanted = taken_out.stamps(results), taken_out.pieces(results, ["clip_0_2"], tree / "voices")
    heard = torture_voices.hearing(results, ["clip_0_2"])
    assert len(heard) == len(STORES) and taken_out.left(results, wanted)
    status, text = said(withdraw.main, *taken_out.command(tree, "clips/clip_0_2.mp3"))
    assert status == 0 and "left to you: delete" in text, text
    assert taken_out.left(results, wanted) == []
    assert taken_out.check(tree)[0] == 2  # the shards are missing
    done = voices_tree.make(tree, STORES)
    jobs = [f"{job} {store} {shard}" for store, shards in heard.items() for shard in shards for job in ("encode_companion", "pack_shard")]
    assert sorted(done) == sorted([*jobs, *(f"index_shards {store}" for store in heard)])
    status, text = taken_out.check(tree)
    assert status == 0 and "withdrawn clips: 1; no alignment, feature or shard names them" in text, text
    after, remade = taken_out.stamps(results), {shard for shards in heard.values() for shard in shards}
    changed = {name for name in before if after[name] != before[name]}
    assert {name.rpartition("/")[2].partition(".")[0] for name in changed if not name.startswith("alignment/")} <= {*remade, "index"}
    assert all(after[name][0] == before[name][0] for name in before if name.startswith("alignment/"))
    meta = tables.read_meta(results / "alignment/made-audio.parquet")
    assert len(meta["withdrawn"]["replaced"]) == 1 and meta["counts"]["quarantined"]["withdrawn"] == 1
    probes = tables.read(results / "alignment/made-audio-probes.parquet", tables.PROBES).to_pylist()
    assert [(r["reason"], r["usable"], r["samples"]) for r in probes if r["item"] == "clip_0_2"] == [("withdrawn", False, 0)]
    fresh = tree / "fresh.parquet"
    voices_tree.align(tree, "audio", fresh)
    assert fresh.read_bytes() == (results / "alignment/made-audio.parquet").read_bytes()  # as if made anew


def test_a_dry_run_changes_nothing(tree):
    before = voices_tree.hashes(tree)
    status, text = said(withdraw.main, "--dry-run", *taken_out.command(tree, "clip_0_2"))
    assert status == 0 and "which would be deleted" in text
    assert voices_tree.hashes(tree) == before


def test_a_speaker_without_another_clip_is_replaced_as_a_whole(tree):
    only = names_of(tree)[-1]
    assert only.startswith(("clip_5", "clip_6"))
    status, text = said(withdraw.main, *taken_out.command(tree, only))
    assert status == 0 and f"the speaker of {only} has no other clip in use" in text
    done = voices_tree.make(tree, STORES)
    assert "align_companion made-audio" in done and "align_companion made-audio_random" not in done
    assert only not in names_of(tree) and taken_out.check(tree)[0] == 0


def test_recorded_sound_that_is_taken_out_leaves_silence_or_the_next(tmp_path, monkeypatch):
    """Policy 'recorded': tracklet a0 has two pieces of sound, b0 one; c0 and the others have none."""
    tree, pieces = voices_tree.build(tmp_path), {"clip_0_1": ("a0", 0, 2), "clip_0_2": ("a0", 3, 5), "clip_0_3": ("b0", 0, 6)}
    path = tree / "results/items/voices.parquet"
    meta = {key: value for key, value in tables.read_meta(path).items() if key not in withdraw.NO_TABLE}
    rows = [row for row in tables.read(path, tables.ITEMS).to_pylist() if row["item"] in pieces]
    own = [{**row, **dict(zip(("owner", "first", "last"), pieces[row["item"]], strict=True)), "owner_order": 0} for row in rows]
    tables.write_rows(path, own, tables.ITEMS, meta)
    monkeypatch.setitem(voices_tree.COMPANIONS, "audio", {"alignment": {"policy": "recorded"}})
    voices_tree.make(tree, ("audio",))
    assert {*names_of(tree)} == {*pieces}
    wanted = taken_out.pieces(tree / "results", ["clip_0_2", "clip_0_3"], tree / "voices")
    status, text = said(withdraw.main, *taken_out.command(tree, "clip_0_2", "clip_0_3"))
    assert status == 0 and "1 of the runs hear another clip, 1 nothing" in text, text
    done = voices_tree.make(tree, ("audio",))
    assert "align_companion made-audio" not in done and {*names_of(tree)} == {"clip_0_1"}
    assert tables.read_meta(tree / "results/alignment/made-audio.parquet")["withdrawn"] == {"replaced": [["a0", 3]], "silent": [["b0", 0]]}
    assert taken_out.check(tree)[0] == 0 and taken_out.left(tree / "results", wanted) == []


def test_a_second_withdrawal_before_the_shards_are_made_again_keeps_the_first_proof(tree):
    for clip in ("clip_0_2", "clip_1_2"):
        assert said(withdraw.main, *taken_out.command(tree, clip))[0] == 0
    voices_tree.make(tree, STORES)
    proof = read_json(tree / "results/withdrawn/made-audio.json")
    assert {*proof["clips"]} == {"clip_0_2", "clip_1_2"} and len(proof["tars"]) == voices_tree.SHARDS and len(proof["changed"]) >= 1
    assert taken_out.check(tree)[0] == 0


def test_a_later_withdrawal_begins_from_stores_that_were_made_again_with_other_settings(tree):
    """`clip_0_2` is heard in both stores, `clip_5_0` in one: the other's tars have changed for a reason of their own."""
    for clip in ("clip_0_2", "clip_5_0"):
        assert said(withdraw.main, *taken_out.command(tree, clip))[0] == 0
        voices_tree.make(tree, STORES)
        assert taken_out.check(tree)[0] == 0
        for path in [*tree.glob("results/features/made/audio/*"), *tree.glob("results/shards/made-audio/*")]:
            path.unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(voices_tree.COMPANIONS, "audio", {"audio": {"bands": 40}} if clip == "clip_0_2" else {})
            voices_tree.make(tree, STORES)
        assert "settings changed since?" in taken_out.check(tree)[1]


def test_what_was_forgotten_is_found(tmp_path):
    right, tried, found = taken_out.forgetful(tmp_path)
    assert right and tried == found == 7


def test_a_withdrawal_that_ends_anywhere_is_finished_by_the_next(tmp_path):
    points, bad = taken_out.interrupted(tmp_path, taken_out.stop, every=5)
    assert points >= 5 and bad == []


@pytest.mark.slow
def test_the_same_where_a_speaker_has_no_other_clip(tmp_path):
    """At each operation: what matters is one of the last."""
    points, bad = taken_out.interrupted(tmp_path, taken_out.stop, clips=taken_out.ALONE)
    assert points >= 20 and bad == []


def test_an_alignment_deleted_with_its_probes_still_there_is_finished(tree):
    """The one place of the test above that once could not be started again."""
    plain, ended = Path.unlink, []

    def unlink(path, missing_ok=False):
        if path.name == "made-audio-probes.parquet":
            ended.append(path)
            raise taken_out.Ended
        plain(path, missing_ok)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(taken_out.Ended):
        patch.setattr(Path, "unlink", unlink)
        said(withdraw.main, *taken_out.command(tree, "clip_6_0"))
    assert ended and ended[0].exists()
    status, text = said(withdraw.main, *taken_out.command(tree))
    assert status == 0, text
    voices_tree.make(tree, STORES)
    assert "clip_6_0" not in names_of(tree) and taken_out.check(tree)[0] == 0


@pytest.mark.slow
def test_killed_for_good(tmp_path):
    points, bad = taken_out.interrupted(tmp_path, taken_out.kill, every=7)
    assert points >= 4 and bad == []


@pytest.mark.slow
def test_probes_deleted_first_are_caught(tmp_path):
    with taken_out.probes_first():
        assert taken_out.interrupted(tmp_path, taken_out.stop, clips=taken_out.ALONE, most=1)[1]


def test_an_order_that_cannot_be_finished_is_caught(tmp_path):
    with taken_out.alignment_first():
        assert taken_out.interrupted(tmp_path, taken_out.stop, every=15, most=1)[1]


def test_a_listed_clip_is_not_decoded_any_more(tree):
    """Somebody lists it by hand and deletes a shard, but does not take it out of ALIGNMENT."""
    (tree / "voices/withdrawn.txt").write_text("clip_0_2\n")
    for path in [*tree.glob("results/features/made/audio/*"), *tree.glob("results/shards/made-audio/*.tar")]:
        path.unlink()
    with pytest.raises(SourceError, match=r"names clip_0_2, which .* lists as withdrawn"):
        voices_tree.make(tree, ("audio",))
    assert said(withdraw.main, *taken_out.command(tree))[0] == 0  # takes out what is listed
    voices_tree.make(tree, STORES)
    assert "clip_0_2" not in names_of(tree) and taken_out.check(tree)[0] == 0


def test_a_report_that_plays_the_clip_goes_and_weights_are_named(tree):
    page = tree / "results/report.html"
    page.write_text('<audio controls src="data:audio/mpeg;base64,AAAA" aria-label="clip A: clip_0_2"></audio>')
    run = tree / "results/runs/m/made-main/seed0/teacher"
    run.mkdir(parents=True)
    told = {"dataset": "made", "companion": "none", "test_companion": "none", "teacher": None}
    write_json(run / "config.json", {**told, "teacher": {**told, "companion": "audio"}})
    (run / "model.safetensors").touch()
    other = run.with_name("deaf")
    other.mkdir()
    write_json(other / "config.json", told)
    (other / "model.safetensors").touch()
    status, text = said(withdraw.main, *taken_out.command(tree, "clip_0_2"))
    assert status == 0 and not page.exists()
    assert "teacher/model.safetensors: was trained on them" in text and "deaf" not in text and (run / "model.safetensors").exists()
    voices_tree.make(tree, STORES)
    assert taken_out.check(tree)[0] == 0
    page.write_text('<audio controls src="data:" aria-label="clip A: clip_0_2">')
    assert "report.html: holds the recording" in taken_out.check(tree)[1]


@pytest.mark.parametrize("name", ["R&B", "it's", "a<b", 'say "a"', "&amp;", "plain"])
def test_a_name_that_a_page_has_to_escape_is_found_there(tmp_path, name):
    """The page's own player, which escapes it."""
    voice = tmp_path / "voice.mp3"
    voice.write_bytes(b"ID3")
    (tmp_path / "report.html").write_text(str(el("p", Media().player(voice, f"clip A: {name}"))))
    assert withdraw.pages(tmp_path, {name}) == [tmp_path / "report.html"]
    assert withdraw.pages(tmp_path, {f"{name}x", name[1:]}) == []


# --- what cannot be meant --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip_9_9"], "names clip_9_9; look at the spelling"),
        ([], "no clip is named, and .*withdrawn.txt names none"),
        (["clip_0_2", "--collection", "other"], "no table of items .there is none. names clip_0_2"),
        (["clip_0_2", "--root", "{tree}"], "no folder clips there"),
        (["clip_0_2", "--results", "{tree}/nowhere"], "no such folder"),
        (["clip_0_2", "--check"], "give no clip with it"),
        (["--check"], "nothing was taken out here"),
        (["--from", "{tree}/none.txt"], "--from .*none.txt: cannot be read .No such file or directory.; expected the names"),
        (["--from", "{tree}/voices/clips/clip_0_1.mp3"], "clip_0_1.mp3: cannot be read .not UTF-8 text.; expected the names"),
        (["--from", "{tree}/voices"], "voices: cannot be read .Is a directory."),
    ],
)
def test_one_sentence_for_every_mistake(tree, arguments, message):
    before = {part: voices_tree.hashes(tree / part) for part in ("voices", "results")}
    given = [*taken_out.command(tree), *(part.format(tree=tree) for part in arguments)]
    status, text = said(withdraw.main, *given)
    assert status == 2 and re.search(message, text) and text.count("\n") == 1, text
    assert {part: voices_tree.hashes(tree / part) for part in before} == before


def test_a_clip_of_two_collections_needs_its_name(tree):
    shutil.copy(tree / "results/items/voices.parquet", tree / "results/items/zoo.parquet")
    status, text = said(withdraw.main, *taken_out.command(tree, "clip_0_2"))
    assert status == 2 and "in the collections voices and zoo; say which with --collection" in text
    assert said(withdraw.main, "--collection", "voices", *taken_out.command(tree, "clip_0_2"))[0] == 0


def test_clips_may_be_in_a_file(tree, tmp_path):
    (tmp_path / "asked.txt").write_text("# letter of 3 May\nclip_0_2.mp3\nclip_0_3\n")
    assert said(withdraw.main, "--from", str(tmp_path / "asked.txt"), *taken_out.command(tree))[0] == 0
    assert withdrawn.read_list(tree / "voices") == {"clip_0_2": True, "clip_0_3": True}


def test_a_proof_of_another_form_is_refused(tree):
    write_json(tree / "results/withdrawn/made-audio.json", {"form": 0})
    with pytest.raises(UserError, match="not a proof of this version"):
        withdrawal.proven(tree / "results")
