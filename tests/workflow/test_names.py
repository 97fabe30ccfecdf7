"""What a finished run of the workflow holds of its speakers: nothing."""

import pytest

from tests.torture import torture_voices
from tests.torture.needles import Needles


@pytest.mark.slow
def test_a_whole_run_holds_no_name(tiny_run):
    """The names are those of the generated table; the full form marks its other cells, too."""
    lines = (tiny_run[0] / "results/demo/common_voice/en/train.tsv").read_text().splitlines()
    clients = {line.split("\t")[0] for line in lines[1:]}
    found = torture_voices.grep(tiny_run[0], Needles(clients))
    assert found.files > 300 and found.secrets >= 10
    assert found.found == []
