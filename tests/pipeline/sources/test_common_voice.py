"""Common Voice: every layout of the table, both ways of quoting, speakers without their names."""

import re

import pytest

from pipeline.base.config import VoicesConfig
from pipeline.base.errors import SourceError
from pipeline.sources import common_voice
from tests.pipeline.sources import trees

OLD = "client_id\tpath\tsentence\tup_votes\tdown_votes\tage\tgender\taccent"
NEW = "client_id\tpath\tsentence_id\tsentence\tsentence_domain\tup_votes\tdown_votes\tage\tgender\taccents\tvariant\tlocale\tsegment"


def row(columns: str, **cells: str) -> str:
    return "\t".join(cells.get(name, "") for name in columns.split("\t"))


def write(path, columns, *rows, end="\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join([columns, *(row(columns, **cells) for cells in rows)]) + end).encode())
    return path


def clips(*sentences):
    """One clip per sentence; two speakers in turns, the second sorts first."""
    return [{"client_id": "ba"[i % 2] * 128, "path": f"common_voice_xx_{i}.mp3", "sentence": text} for i, text in enumerate(sentences)]


def columns_of(path):
    table = common_voice.read_table(path)
    return table.rows["path"].to_list(), table.quoting


def paths(count):
    return [f"common_voice_xx_{i}.mp3" for i in range(count)]


def test_names_round_trip():
    for name in ("common_voice_en_1.mp3", "f0.9.mp3"):
        assert common_voice.format_clip(common_voice.parse_clip(name)) == name
    for name in ("a.wav", "clips/a.mp3", ".mp3", "..\\a.mp3"):
        with pytest.raises(SourceError, match="not the name of a clip"):
            common_voice.parse_clip(name)


# --- quoting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", [OLD, NEW])
@pytest.mark.parametrize("sentences", [('"Open', "b", 'close"', "d"), ('say "x', "b"), ('"a" b', "c")])
def test_raw_quotes_swallow_no_row(tmp_path, columns, sentences):
    """One unbalanced quote makes a CSV reader join the rows up to the next one; here every row arrives."""
    path = write(tmp_path / "t.tsv", columns, *clips(*sentences))
    assert columns_of(path) == (paths(len(sentences)), "none")


def test_a_csv_reader_would_swallow_rows(tmp_path):
    """Negative control of the test above."""
    import polars as pl

    path = write(tmp_path / "t.tsv", NEW, *clips('"Open', "b", 'close"', "d"))
    assert pl.read_csv(path, separator="\t", truncate_ragged_lines=True).height < 4


@pytest.mark.parametrize("sentences", [('"""Thank you,"" said the boy."', "b"), ('"It\'s"', "b"), ('"a\tb"', "c"), ("a", '"""b"""')])
def test_tables_of_2019_are_quoted(tmp_path, sentences):
    path = write(tmp_path / "t.tsv", OLD, *clips(*sentences))
    assert columns_of(path) == (paths(2), "csv")


def test_a_quoted_tab_in_a_later_table_is_refused_not_misread(tmp_path):
    path = write(tmp_path / "t.tsv", NEW, *clips("x", '"a\tb"'))
    with pytest.raises(SourceError, match=r"t\.tsv: line 3 has 14 fields, the header has 13"):
        common_voice.read_table(path)


def test_without_quotes_and_with_line_ends_of_windows(tmp_path):
    path = write(tmp_path / "t.tsv", "path\tsentence\tclient_id", *clips("x", "y"), end="\r\n")
    assert columns_of(path) == (paths(2), "none")
    assert common_voice.read_table(path).rows["client_id"].to_list() == ["b" * 128, "a" * 128]


def test_words_that_readers_take_for_nothing_are_text(tmp_path):
    path = write(tmp_path / "t.tsv", OLD, {"client_id": "null", "path": "NA", "sentence": "null"})
    assert common_voice.read_table(path).rows.rows() == [("null", "NA")]


def test_chunks_do_not_change_the_count(tmp_path, monkeypatch):
    path = write(tmp_path / "t.tsv", NEW, *clips(*"abcdefgh"))
    monkeypatch.setattr(common_voice, "CHUNK", 7)
    assert columns_of(path) == (paths(8), "none")
    path.write_bytes(path.read_bytes().rstrip(b"\n") + b"\textra")
    with pytest.raises(SourceError, match="line 9 has 14 fields"):
        common_voice.read_table(path)


# --- tables that cannot be used ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "an empty file"),
        (b"path\tsentence\tpath\n1.mp3\tx\t1.mp3\n", "the header has no column 'client_id' and 2 columns 'path'"),
        (b"client_id\tsentence\n", "no column 'path'"),
        (b"client_id\tpath\tx\nc\t1.mp3\n", "line 2 has 2 fields, the header has 3"),
        (b"client_id\tpath\tx\nc\t1.mp3\ty\n\n", "line 3 has 1 fields"),
        (b"client_id\tpath\n\t1.mp3\n", "line 2 has an empty client_id"),
        (b"client_id\tpath\nc\t1.mp3\nc\t \n", "line 3 has an empty path"),
        (b"client_id\tpath\nc\t\xff.mp3\n", "not a table of UTF-8 text"),
    ],
)
def test_one_sentence_for_every_fault(tmp_path, content, message):
    path = tmp_path / "t.tsv"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=message) as error:
        common_voice.read_table(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


# --- items ------------------------------------------------------------------------------------------------------------


def collection(root, *rows, columns=NEW):
    write(root / "train.tsv", columns, *rows)
    trees.touch(root, (f"clips/{cells['path']}" for cells in rows))
    return root


def test_items_of_a_tiny_collection(tmp_path):
    root = collection(tmp_path, *clips("x", "y", "z"))
    (root / "clips/common_voice_xx_1.mp3").write_bytes(b"12345")
    (root / "clips/common_voice_xx_2.mp3").unlink()
    (root / "clip_durations.tsv").write_text("clip\tduration[ms]\ncommon_voice_xx_1.mp3\t1001\nother.mp3\t5\ncommon_voice_xx_0.mp3\t2500\n")
    items, notes = common_voice.read_items(root, VoicesConfig())
    a, b = common_voice.owner_name("a" * 128), common_voice.owner_name("b" * 128)
    assert items.drop_columns(["kind", "start", "first", "last"]).to_pylist() == [
        {
            "item": "common_voice_xx_0",
            "owner": b,
            "owner_order": 1,
            "order": 0,
            "path": "clips/common_voice_xx_0.mp3",
            "seconds": 2.5,
            "bytes": 0,
        },
        {
            "item": "common_voice_xx_1",
            "owner": a,
            "owner_order": 0,
            "order": 1,
            "path": "clips/common_voice_xx_1.mp3",
            "seconds": 1.001,
            "bytes": 5,
        },
        {
            "item": "common_voice_xx_2",
            "owner": b,
            "owner_order": 1,
            "order": 2,
            "path": "clips/common_voice_xx_2.mp3",
            "seconds": None,
            "bytes": -1,
        },
    ]
    assert items["start"].null_count == items["first"].null_count == items["last"].null_count == 3
    assert notes["counts"] == {"clips": 3, "speakers": 2, "clips without a file": 1, "clips without a duration": 1}
    assert notes["durations"] == "clip_durations.tsv"


def test_the_speaker_stays_here(tmp_path):
    cells = {"client_id": "c0ffee" * 20, "path": "1.mp3", "sentence": "secret", "accents": "from my village", "locale": "xx"}
    items, notes = common_voice.read_items(collection(tmp_path, cells), VoicesConfig())
    text = repr(items.to_pylist()) + repr(notes)
    assert not any(word in text for word in ("c0ffee", "secret", "village"))
    assert re.fullmatch(r"spk_[0-9a-f]{16}", items["owner"][0].as_py())
    assert common_voice.owner_name("a") != common_voice.owner_name("b")


def test_the_table_may_lie_deeper(tmp_path):
    collection(tmp_path / "en", *clips("x"))
    config = VoicesConfig(table="en/train.tsv")
    assert common_voice.holds(tmp_path, config) and not common_voice.holds(tmp_path, VoicesConfig())
    assert common_voice.read_items(tmp_path, config)[0]["path"].to_pylist() == ["en/clips/common_voice_xx_0.mp3"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "lists no clip"),
        ([{"client_id": "c", "path": "1"}, {"client_id": "d", "path": "1.mp3"}], r"lines 2 and 3 name the same clip"),
        ([{"client_id": "c", "path": "../1.mp3"}], r"line 2: its path is no plain file name"),
        ([{"client_id": "c.mp3", "path": "c0ffee"}], r"line 2: its client_id is the name of an mp3 file"),
        ([{"client_id": "c", "path": "1.mp3"}, {"client_id": "d", "path": "A sentence."}], r"line 3: its path is no name of a clip"),
    ],
)
def test_clips_that_cannot_be_meant(tmp_path, rows, message):
    with pytest.raises(SourceError, match=message):
        common_voice.read_items(collection(tmp_path, *rows), VoicesConfig())


@pytest.mark.parametrize("text", ["clip\tduration[ms]\na.mp3\t1500\n", "a.mp3\t1500\n"])
def test_durations_with_and_without_a_header(tmp_path, text):
    (tmp_path / "times.txt").write_text(text)
    table, name = common_voice._durations(tmp_path)
    assert (table.rows(), name) == ([("a.mp3", 1.5)], "times.txt")


@pytest.mark.parametrize("text", ["a b c\n", "clip\tduration[ms]\na.mp3\tlong\n", "a.mp3\t1\na.mp3\t1\n"])
def test_durations_of_another_form(tmp_path, text):
    (tmp_path / "clip_durations.tsv").write_text(text)
    with pytest.raises(SourceError, match=r"clip_durations\.tsv: (the first )?line"):
        common_voice._durations(tmp_path)


# --- real tables ------------------------------------------------------------------------------------------------------


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("table", "rows", "quoting"),
    [
        ("en/train.tsv", 62, "csv"),
        ("tw/train.tsv", 30, "none"),
        ("tw/validated.tsv", 40, "none"),
        ("tw/dev.tsv", 0, "none"),
        ("fa/other.tsv", 98, "none"),
        ("tsv_variants/2019_tr_hash_paths.tsv", 60, "csv"),
        ("tsv_variants/2020_en_segment_column.tsv", 300, "none"),
        ("tsv_variants/2024_id_raw_quotes.tsv", 60, "none"),
        ("tsv_variants/2025_en_13_columns_invalidated.tsv", 63, "none"),
        ("tsv_variants/covost2_en_validated.tsv", 6, "csv"),
    ],
)
def test_real_tables(real_data, table, rows, quoting):
    made = common_voice.read_table(real_data / "common_voice_mini" / table)
    assert (made.rows.height, made.quoting) == (rows, quoting)
    assert made.rows["client_id"].str.contains("^[0-9a-f]{128}$").all()
    assert made.rows["path"].n_unique() == rows


@pytest.mark.real_data
def test_a_real_table_without_speakers_is_one_sentence(real_data):
    with pytest.raises(SourceError, match="the header has no column 'client_id' and 2 columns 'path'"):
        common_voice.read_table(real_data / "common_voice_mini/tsv_variants/2020_en_no_client_id_duplicate_path.tsv")


@pytest.mark.real_data
@pytest.mark.parametrize(("language", "table", "per_speaker"), [("en", "train.tsv", [47, 9, 6]), ("tw", "train.tsv", [30])])
def test_real_collections(real_data, language, table, per_speaker):
    items, notes = common_voice.read_items(real_data / "common_voice_mini" / language, VoicesConfig(table=table))
    owners = items["owner"].to_pylist()
    assert sorted((owners.count(owner) for owner in set(owners)), reverse=True) == per_speaker
    assert notes["counts"]["clips without a file"] == 0 and min(items["bytes"].to_pylist()) > 1000
    durations = {"en": len(owners), "tw": 0}
    assert notes["counts"]["clips without a duration"] == durations[language]


@pytest.mark.real_data
def test_clips_named_by_a_hash_get_their_ending(real_data, tmp_path):
    source = real_data / "common_voice_mini/tsv_variants/2019_tr_hash_paths.tsv"
    (tmp_path / "clips").mkdir()
    (tmp_path / "train.tsv").write_bytes(source.read_bytes())
    with pytest.raises(SourceError, match="none of these is in"):  # nothing says yet that this column holds clips
        common_voice.read_items(tmp_path, VoicesConfig())
    trees.touch(tmp_path, [f"clips/{common_voice.read_table(source).rows['path'][7]}.mp3"])
    items, notes = common_voice.read_items(tmp_path, VoicesConfig())
    assert re.fullmatch(r"clips/[0-9a-f]{128}\.mp3", items["path"][0].as_py())
    assert re.fullmatch(r"[0-9a-f]{128}", items["item"][0].as_py())
    assert notes["counts"]["clips without a file"] == 59
