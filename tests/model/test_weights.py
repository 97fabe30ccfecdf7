import pickle
import shlex

import pytest
import torch
from safetensors.torch import save_file

from model import weights
from pipeline.base.errors import WeightsError
from tests.model import tiny

META = {"classes": 5, "cameras": 3, "method": "dubbernet", "note": "Straße"}


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    weights.save(path, tiny.network("dubbernet_student"), META)
    return path


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_round_trip(saved):
    network = tiny.network("dubbernet_student", seed=1)
    assert not same(network, tiny.network("dubbernet_student"))
    assert weights.load(saved, network) == META == weights.read_meta(saved)
    assert same(network, tiny.network("dubbernet_student"))


def test_equal_weights_are_equal_bytes(saved, tmp_path):
    weights.save(tmp_path / "again", tiny.network("dubbernet_student"), dict(reversed(META.items())))
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()


def test_files_of_a_student_hold_neither_audio_nor_masks(saved):
    with weights.opened(saved) as file:
        names = set(file.keys())
    assert "fusion.0.gate" in names and not [name for name in names if "audio" in name or "mask" in name]


def test_missing_and_unexpected_names_are_listed_and_counted(saved):
    teacher = tiny.network("dubbernet_teacher", seed=1)
    with pytest.raises(WeightsError) as error:
        weights.load(saved, teacher)
    text = str(error.value)
    assert "26 missing: fusion.0.audio_norm.weight, " in text and " and 21 more; " in text
    assert "6 unexpected: fusion.0.gate, fusion.0.norm.bias, " in text and " and 1 more)" in text
    assert same(teacher, tiny.network("dubbernet_teacher", seed=1))  # nothing was loaded


def test_parts_are_left_alone_by_name_only(saved):
    teacher = tiny.network("dubbernet_teacher", seed=1)
    with pytest.raises(WeightsError, match=r"26 missing: .* 6 unexpected: fusion.0.gate"):
        weights.load(saved, teacher, leave=("fus", "audio.over_chan", "fusion.0.g"))  # no parts of a name
    weights.load(saved, teacher, leave=("fusion.", "audio"))
    student, before = tiny.network("dubbernet_student").state_dict(), tiny.network("dubbernet_teacher", seed=1).state_dict()
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name] if weights.named(name, ["fusion", "audio"]) else student[name]), name


def test_another_number_of_identities_is_a_difference(saved):
    other = tiny.network("dubbernet_student", classes=7)
    with pytest.raises(WeightsError, match=r"1 different: head.classifier.weight is float32 \[5, 24\] instead of float32 \[7, 24\]"):
        weights.load(saved, other)


def test_another_type_is_a_difference(saved):
    with pytest.raises(WeightsError, match=r"float32 .* instead of float64"):
        weights.load(saved, tiny.network("dubbernet_student").double())


def _broken(path, how):
    data = path.read_bytes()
    if how == "directory":
        path.unlink()
        path.mkdir()
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"weight": 1}))
    elif how == "torch":
        torch.save({"weight": torch.zeros(1)}, path)
    elif how == "old torch":
        torch.save({"weight": torch.zeros(1)}, path, _use_new_zipfile_serialization=False)
    elif how == "foreign":
        save_file({"weight": torch.zeros(1)}, path)
    elif how == "header":
        save_file({"weight": torch.zeros(1)}, path, metadata={weights.META_KEY: "{"})
    else:
        path.write_bytes({"cut": data[:-1], "start": data[:20], "empty": b"", "text": b"weights of a network", "long": data + b"x"}[how])


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("pickle", "a pickle .*python -m model.convert_weights "),
        ("torch", "a pickle .*python -m model.convert_weights "),
        ("old torch", "a pickle .*python -m model.convert_weights "),
        ("directory", "cannot be read .Is a directory."),
        ("cut", "no whole safetensors file"),
        ("start", "no whole safetensors file"),
        ("empty", "no whole safetensors file"),
        ("text", "no whole safetensors file"),
        ("long", "no whole safetensors file"),
        ("foreign", "was not written by dubtrack"),
        ("header", "is not JSON"),
    ],
)
def test_what_is_not_our_file_is_one_sentence(saved, how, sentence):
    _broken(saved, how)
    for read in (weights.read_meta, lambda path: weights.load(path, tiny.network("dubbernet_student"))):
        with pytest.raises(WeightsError, match=sentence) as error:
            read(saved)
        assert str(error.value).startswith(f"{saved}: ") and "\n" not in str(error.value)


def test_the_command_that_a_pickle_needs_can_be_copied(tmp_path):
    path = tmp_path / "my weights.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError) as error, weights.opened(path):
        pass
    command = shlex.split(str(error.value).split("`")[1])
    assert command == ["python", "-m", "model.convert_weights", str(path), "OUT.safetensors"]


def test_no_such_file(tmp_path):
    with pytest.raises(WeightsError, match="cannot be read"):
        weights.load(tmp_path / "none.safetensors", tiny.network("dubbernet_student"))


def test_meta_that_is_not_json_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        weights.save(tmp_path / "x", tiny.network("dubbernet_student"), {"loss": float("nan")})
    assert list(tmp_path.iterdir()) == []
