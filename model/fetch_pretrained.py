"""Copy a ViT that timm knows by name out of the local cache of weights; fetch it only when told to.

In:      name of a timm model (`pretrained` of a method).   Out: its safetensors file, as it is published.
Source:  specs/dubbernet.md 4.2. Offline by default: without --download no request is made, whatever the cache holds.
"""

from __future__ import annotations

import difflib
import shutil
from pathlib import Path

import timm
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import HTTPError, XetDownloadError

from model.weights import opened
from pipeline.base import cli
from pipeline.base.errors import ConfigError, WeightsError, did_you_mean
from pipeline.base.files import atomic, digest_file

FILE = "model.safetensors"
"""Under which timm publishes a model's weights."""


def hub_id(name: str) -> tuple[str, str | None]:
    """Repository and revision (None: the newest that is there) of a timm model.

    Raises:
        ConfigError: no such model, or timm has no safetensors file of it.
    """
    try:
        published = timm.get_pretrained_cfg(name)
    except RuntimeError:  # a known architecture with an unknown tag
        published = None
    if published is None:
        near = difflib.get_close_matches(name, timm.list_pretrained(["vit_*", "deit_*"]), n=5, cutoff=0)
        raise ConfigError(
            f"pretrained='{name}': timm has no weights of this name{did_you_mean(name, near)} (a path has a '/' or ends in .safetensors)"
        )
    if not published.hf_hub_id or published.hf_hub_filename:
        raise ConfigError(f"pretrained='{name}': timm names no {FILE} of this model; give the path of a safetensors file")
    repository, _, revision = published.hf_hub_id.partition("@")
    return repository, revision or None


def find(name: str, download: bool) -> Path:
    """The model's file in the local cache; with `download` it is fetched into the cache first where it is not there.

    Raises:
        ConfigError: as :func:`hub_id`.
        WeightsError: it is not there, or cannot be fetched.
    """
    repository, revision = hub_id(name)
    # hf_hub_download is not asked first: even with local_files_only it makes a request (it looks up which program runs it).
    found = try_to_load_from_cache(repository, FILE, revision=revision)
    if isinstance(found, str):
        return Path(found)
    if not download:
        raise WeightsError(
            f"pretrained='{name}': {FILE} of {repository} is not in the local cache, and nothing is fetched unless `download: true`; "
            "set it, or give the path of a safetensors file"
        )
    try:
        return Path(hf_hub_download(repository, FILE, revision=revision))
    except (OSError, HTTPError, XetDownloadError, RuntimeError) as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise WeightsError(
            f"pretrained='{name}': {FILE} of {repository} could not be fetched ({reason}); try again, or give the path of a safetensors file"
        ) from None


def main(argv: list[str] | None = None) -> None:
    arguments = cli.parser(__doc__)
    arguments.add_argument("out", type=Path, help="the .safetensors file to write")
    arguments.add_argument("--name", required=True, help="timm model, for example vit_base_patch16_224.orig_in21k_ft_in1k")
    arguments.add_argument("--download", action="store_true", help="fetch it where the local cache does not hold it")
    args = arguments.parse_args(argv)

    found = find(args.name, args.download)
    with opened(found):  # a half-copied cache is found here and not in a training
        pass
    with atomic(args.out) as temporary:
        shutil.copyfile(found, temporary)
    print(f"{args.out}: {args.name}, SHA-256 {digest_file(args.out)}")


if __name__ == "__main__":
    cli.run(main)
