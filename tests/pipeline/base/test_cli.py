"""Exit codes and settings on the command line."""

import pytest

from pipeline.base import cli
from pipeline.base.config import ClipConfig
from pipeline.base.errors import ConfigError, DiskError, MediaError, UserError, did_you_mean


def fail(error: BaseException):
    def main() -> None:
        raise error

    return main


def test_a_user_error_is_one_sentence_and_status_2(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.run(fail(UserError("mars: no such folder")))
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: mars: no such folder\n")


def test_our_own_mistakes_keep_their_traceback():
    with pytest.raises(AssertionError):
        cli.run(fail(AssertionError()))


def test_a_closed_pipe_is_no_traceback():
    with pytest.raises(SystemExit) as stop:
        cli.run(fail(BrokenPipeError()))
    assert stop.value.code == 1


def test_a_good_end_returns():
    assert cli.run(lambda: None) is None


def test_settings_from_json_text():
    assert cli.load(ClipConfig, '{"frames": 8}') == ClipConfig(frames=8)
    with pytest.raises(ConfigError, match="--config: not JSON"):
        cli.load(ClipConfig, "frames: 8")
    with pytest.raises(ConfigError, match=r"clip\.frame: unknown setting; did you mean 'frames'"):
        cli.load(ClipConfig, '{"frame": 8}', "clip")


def test_files_to_write_are_none_of_those_that_are_read(tmp_path, monkeypatch):
    """By whatever path, and none of each other; other files, and what was not given, are let through."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").write_text("kept")
    (tmp_path / "link").symlink_to("in")
    (tmp_path / "folder").mkdir()
    for same in ("in", "./in", "folder/../in", "link", tmp_path / "in"):
        for outs, ins in ((same, "in"), ("in", ["other", same]), (["new", same], tmp_path / "in")):
            with pytest.raises(ConfigError, match=r"^OUT=.*: is the same file as --in=.*, which this step reads; name another file"):
                cli.check_outputs({"OUT": outs}, {"--more": None, "--in": ins})
    with pytest.raises(ConfigError, match=r"--b=folder/\.\./new: is the same file as --a=new, which this step writes, too"):
        cli.check_outputs({"--a": "new", "--b": "folder/../new"}, {"--in": "in"})
    with pytest.raises(DiskError, match="folder: is a folder"):
        cli.check_outputs({"OUT": "folder"}, {"--in": "in"})
    cli.check_outputs({"OUT": "new", "--b": None, "--c": "", "--d": []}, {"--in": ["in", "in"], "--more": None})  # negative control


def test_parser_shows_the_module_and_takes_settings():
    parser = cli.parser("What it does.\n\nIn:   this.")
    cli.config_argument(parser)
    assert "What it does.\n\nIn:   this." in parser.format_help()
    assert parser.parse_args([]).config == "{}"


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [("trian", ["train", "test"], "; did you mean 'train'?"), ("zzz", ["b", "a"], "; known: a, b"), ("zzz", [], "")],
)
def test_hints(name, known, hint):
    assert did_you_mean(name, known) == hint


def test_media_errors_keep_reason_and_detail():
    error = MediaError("truncated", "found 2 s, expected 3 s")
    assert (error.reason, error.detail, str(error)) == ("truncated", "found 2 s, expected 3 s", "truncated: found 2 s, expected 3 s")


def test_what_is_printed_does_not_command_a_terminal(capsys):
    assert cli.printable("Käthe  ½ \x1b]0;x\x07\n\u202e") == "Käthe  ½ \\x1b]0;x\\x07\\n\\u202e"
    with pytest.raises(SystemExit):
        cli.run(fail(UserError("no \x1b[2J\nfile")))
    assert capsys.readouterr().err == "error: no \\x1b[2J\\nfile\n"
