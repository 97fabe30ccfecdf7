"""A text that a rule was given, in a file."""

from pipeline.put_text import main


def test_the_text_and_a_line_end(tmp_path):
    main([str(tmp_path / "new" / "machine.json"), '{"a": "é"}'])
    assert (tmp_path / "new" / "machine.json").read_bytes() == '{"a": "é"}\n'.encode()
