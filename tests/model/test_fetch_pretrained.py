import socket
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.fetch_pretrained import FILE, hub_id, main
from pipeline.base.errors import ConfigError, UserError, WeightsError
from pipeline.base.files import digest_file

NAME = "vit_base_patch16_224.orig_in21k_ft_in1k"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache in place of the user's."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(autouse=True)
def asked(monkeypatch) -> list[object]:
    """Whoever is asked for over the network; nobody is reached."""
    found: list[object] = []

    def refuse(*args, **_):
        found.append(args)
        raise OSError("Network is unreachable")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between attempts
    return found


def keep(cache: Path, repository: str, content: bytes | None = None) -> Path:
    """Put a small weight file into the cache as it is laid out: blobs, and snapshots that link to them, named by refs."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    for name in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (folder / name).mkdir(parents=True)
    (folder / "refs" / "main").write_text(COMMIT)
    blob = folder / "blobs" / "ab12"
    if content is None:
        save_file({"cls_token": torch.ones(1, 1, 4)}, blob)
    else:
        blob.write_bytes(content)
    (folder / "snapshots" / COMMIT / FILE).symlink_to("../../blobs/ab12")
    return blob


@pytest.mark.parametrize("more", [(), ("--download",)])
def test_what_the_cache_holds_is_copied_and_nobody_is_asked(cache, tmp_path, asked, capsys, more):
    blob = keep(cache, f"timm/{NAME}")
    out = tmp_path / "made" / "vit.safetensors"
    main([str(out), "--name", NAME, *more])
    assert out.read_bytes() == blob.read_bytes() and not out.is_symlink()
    assert load_file(out)["cls_token"].tolist() == [[[1, 1, 1, 1]]]
    assert asked == []
    assert capsys.readouterr().out == f"{out}: {NAME}, SHA-256 {digest_file(blob)}\n"


def test_nothing_is_fetched_unless_asked_for(cache, tmp_path, asked):
    keep(cache, "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k")  # another model
    with pytest.raises(WeightsError, match=r"nothing is fetched unless `download: true`; .* path of a safetensors file") as error:
        main([str(tmp_path / "out.safetensors"), "--name", NAME])
    assert "\n" not in str(error.value) and asked == []
    assert not (tmp_path / "out.safetensors").exists()


def test_a_name_without_a_tag_is_timms_default(cache, tmp_path):
    keep(cache, "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k")
    main([str(tmp_path / "out.safetensors"), "--name", "vit_base_patch16_224"])
    assert (tmp_path / "out.safetensors").exists()


def test_with_download_a_network_that_is_not_there_is_one_sentence(cache, tmp_path, asked):
    with pytest.raises(WeightsError, match=r"could not be fetched .*unreachable.*; try again, or give the path") as error:
        main([str(tmp_path / "out.safetensors"), "--name", NAME, "--download"])
    assert "\n" not in str(error.value) and asked
    assert not (tmp_path / "out.safetensors").exists()


def test_offline_mode_of_the_hub_is_obeyed(cache, tmp_path, asked, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="could not be fetched"):
        main([str(tmp_path / "out.safetensors"), "--name", NAME, "--download"])
    assert asked == []


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("vit_base_patch16_224.orig_in21k_ft_in1", f"did you mean '{NAME}'"),
        ("vit_bse_patch16_224.orig_in21k_ft_in1k", f"did you mean '{NAME}'"),
        ("???", "timm has no weights of this name"),
        ("", "timm has no weights of this name"),
        ("hf_hub:timm/vit_base", "timm has no weights of this name"),
        ("vit_huge_patch14_gap_224.in1k_ijepa", "timm names no model.safetensors of this model; give the path"),
    ],
)
def test_another_name_is_one_short_sentence(name, sentence, asked):
    with pytest.raises(ConfigError, match="pretrained=") as error:
        hub_id(name)
    assert sentence in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 500
    assert asked == []


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1"])
def test_a_cache_that_is_not_whole_is_not_copied(cache, tmp_path, content):
    keep(cache, f"timm/{NAME}", content)
    with pytest.raises(UserError, match="no whole safetensors file"):
        main([str(tmp_path / "out.safetensors"), "--name", NAME])
    assert not (tmp_path / "out.safetensors").exists()


def test_as_a_command(tmp_path, repository):
    command = [sys.executable, "-m", "model.fetch_pretrained", str(tmp_path / "out.safetensors"), "--name", NAME]
    environment = {"PATH": "", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "download: true" in done.stderr
