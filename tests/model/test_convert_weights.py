import argparse
import pickle
import subprocess
import sys
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from model.convert_weights import main, read_pickle, state_dict
from pipeline.base.errors import WeightsError
from pipeline.base.files import digest_file

SENTENCE = "expected nothing but tensors by name"


def tensors():
    torch.manual_seed(0)
    return {"conv.weight": torch.randn(2, 3), "half": torch.randn(2).half(), "steps": torch.tensor(7)}


def convert(folder, content, **how):
    torch.save(content, folder / "in.pth", **how)
    main([str(folder / "in.pth"), str(folder / "out.safetensors")])
    return load_file(folder / "out.safetensors")


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) and found[name].dtype == expected[name].dtype for name in expected
    )


@pytest.mark.parametrize(
    "wrap",
    [
        dict,
        OrderedDict,
        lambda state: {"model": state},
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"state": {}}},
        lambda state: {"model": {"state_dict": state}, "args": None},
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"model": {f"module.{name}": tensor for name, tensor in state.items()}},
    ],
)
def test_names_types_and_numbers_stay(tmp_path, wrap):
    assert same(convert(tmp_path, wrap(tensors())), tensors())


def test_files_of_old_torch(tmp_path):
    assert same(convert(tmp_path, tensors(), _use_new_zipfile_serialization=False), tensors())


def test_a_beginning_that_not_all_names_have_stays(tmp_path):
    mixed = {"module.a": torch.zeros(1), "b": torch.zeros(1)}
    assert convert(tmp_path, mixed).keys() == mixed.keys()


def test_parameters_and_an_audio_encoder(tmp_path):
    """A whole module's state, with weight norm and buffers, as speech encoders have."""
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 4, 3, groups=2)), nn.BatchNorm1d(4))
    assert same(convert(tmp_path, module.state_dict()), module.state_dict())
    assert same(convert(tmp_path, dict(module.named_parameters())), {n: p.detach() for n, p in module.named_parameters()})


def test_shared_and_transposed_memory_is_written_out(tmp_path):
    table = torch.arange(6.0).reshape(2, 3)
    state = {"table": table, "tied": table, "row": table[1], "turned": table.t()}
    assert same(convert(tmp_path, state), state)


def test_it_says_what_it_wrote(tmp_path, capsys):
    convert(tmp_path, {"model": tensors(), "epoch": 3})
    digest = digest_file(tmp_path / "out.safetensors")
    assert capsys.readouterr().out == f"left out: epoch\n{tmp_path / 'out.safetensors'}: 3 tensors, 9 numbers\nSHA-256 {digest}\n"


def test_equal_tensors_are_equal_bytes(tmp_path):
    convert(tmp_path, tensors())
    first = (tmp_path / "out.safetensors").read_bytes()
    convert(tmp_path, {"model": dict(reversed(tensors().items()))})
    assert (tmp_path / "out.safetensors").read_bytes() == first


@pytest.mark.filterwarnings("ignore:Sparse invariant checks", "ignore:TypedStorage is deprecated")
@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"a": torch.zeros(1), "lr": 0.1}, f"'lr' is a float; {SENTENCE}"),
        ({"a": torch.zeros(1), "b": [1], "c": None}, "'b' is a list and 1 more like it"),
        ({7: torch.zeros(1)}, "the name 7 is no text"),
        ({"teacher": {"a": torch.zeros(1)}}, "'teacher' is a dict"),
        ({"a": torch.eye(2).to_sparse()}, "'a' is a tensor of torch.float32 .torch.sparse_coo"),
        ({"a": torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8)}, "'a' is a tensor of torch.qint8"),
        ({"a": torch.zeros(1, dtype=torch.complex128)}, "'a' is a tensor of torch.complex128"),
        ({"model": {"a": torch.zeros(1)}, "state_dict": {"a": torch.zeros(1)}}, "holds both model and state_dict"),
        (torch.zeros(1), "holds a Tensor; expected tensors by name"),
        ([1, 2], "holds a list"),
        ({}, "holds nothing"),
        ({"model": {}}, "holds nothing"),
    ],
)
def test_what_is_no_state_dict_is_one_sentence(tmp_path, content, sentence):
    with pytest.raises(WeightsError, match=sentence) as error:
        convert(tmp_path, content)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_that_wants_classes_does_not_get_them(tmp_path):
    """As training scripts save it, with the command line beside the weights."""
    with pytest.raises(WeightsError, match=r"holds a argparse.Namespace, and reading that could run code"):
        convert(tmp_path, {"model": tensors(), "args": argparse.Namespace(lr=1)})


class Evil:
    """Unpickled by Python's own pickle, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_nothing_of_the_file_runs(tmp_path, save):
    save({"a": Evil(tmp_path / "ran")}, tmp_path / "in.pth")
    with pytest.raises(WeightsError):
        read_pickle(tmp_path / "in.pth")
    assert not (tmp_path / "ran").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "ran")))  # negative control
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["cut", "start", "empty", "text", "safetensors", "directory", "none"])
def test_what_torch_did_not_write_is_one_sentence(tmp_path, how):
    path = tmp_path / "in.pth"
    torch.save(tensors(), path)
    data = path.read_bytes()
    path.unlink()
    if how == "safetensors":
        save_file(tensors(), path)
    elif how == "directory":
        path.mkdir()
    elif how != "none":
        path.write_bytes({"cut": data[:-100], "start": data[:20], "empty": b"", "text": b"<html>weights</html>"}[how])
    with pytest.raises(WeightsError, match=r"cannot be read|no whole file of torch.save .*needs no converting") as error:
        read_pickle(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_the_original_is_not_written_over(tmp_path):
    torch.save(tensors(), tmp_path / "in.pth")
    before = (tmp_path / "in.pth").read_bytes()
    with pytest.raises(WeightsError, match=r"must end in .safetensors"):
        main([str(tmp_path / "in.pth"), str(tmp_path / "in.pth")])
    assert (tmp_path / "in.pth").read_bytes() == before


def test_wrapped_once_and_stripped_once():
    a = torch.zeros(1)
    assert state_dict("x", {"model": {"module.module.a": a}, "best": 1}) == ({"module.a": a}, ["best"])


def test_as_a_command(tmp_path, repository):
    (tmp_path / "in.pth").write_bytes(b"")
    command = [sys.executable, "-m", "model.convert_weights", str(tmp_path / "in.pth"), str(tmp_path / "out.safetensors")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: ")
