"""Who asks for the network: every Python process of a run is watched, and the run is given none.

Watching is an audit hook (`tests.workflow.circumstances.OFFLINE`); taking the network away is a network namespace of the run's own, where
the system lets us have one. The namespace holds for everything, ffmpeg included; the hook says who asked.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

from tests.workflow.circumstances import OFFLINE, marks, site

WAYS = (["unshare", "--net"], ["unshare", "--map-root-user", "--net"])

ASKING = {
    "a connection": "socket.create_connection(('192.0.2.1', 9), 1)",
    "the address of a name": "socket.getaddrinfo('example.org', 443)",
    "a packet": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
    "a page": "urllib.request.urlopen('http://192.0.2.1/', timeout=1)",
}
"""Code that wants the network, by what it wants. (192.0.2.1 belongs to nobody.)"""
LIBRARIES = {
    "weights from torch.hub": "__import__('torch').hub.load_state_dict_from_url('https://example.org/none.pth', '.')",
    "a file of a model hub": "__import__('huggingface_hub').hf_hub_download('nobody/nothing', 'none', local_dir='.')",
    "pretrained weights from timm": "__import__('timm').create_model('vit_tiny_patch16_224', pretrained=True)",
}
"""The same through libraries that we use, or that come with them."""


@functools.cache
def namespace() -> tuple[str, ...]:
    """The command that starts another without network; () where the system does not let us."""
    for way in WAYS:
        if shutil.which(way[0]) and subprocess.run([*way, "true"], capture_output=True, check=False).returncode == 0:
            return tuple(way)
    return ()


def noticed(folder: Path, asking: str) -> bool:
    """Whether a process that runs `asking` is refused and written down; `folder` is new."""
    environment = {**os.environ, **site(folder, OFFLINE), "HF_HUB_CACHE": str(folder)}
    code = f"import socket, urllib.request\ntry:\n    {asking}\nexcept Exception:\n    pass\nelse:\n    raise SystemExit('went through')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode == 0 and bool(marks(folder, "asked"))


def cut_off(inside: tuple[str, ...]) -> bool:
    """Whether a process that `inside` starts can not reach this one, which a process without it can."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 5)"
        ask = [sys.executable, "-c", code]
        reached, kept = (subprocess.run([*how, *ask], capture_output=True, check=False, timeout=30).returncode for how in ((), inside))
    return reached == 0 and kept != 0
