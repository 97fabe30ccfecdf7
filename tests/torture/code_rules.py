"""What our own code may not do, because with it a file could run code or lead out of its folder. One list, each rule with its reason.

Held by reading the syntax tree of every module of the packages, and the text of every rule of the workflow.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("pipeline", "shards", "model", "train", "evaluate")

MODULES = {
    **dict.fromkeys(
        ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "jsonpickle", "shelve"), "reading a pickle is running it"
    ),
    "marshal": "it reads code objects, and bytes that are damaged on purpose break the interpreter",
    "runpy": "it runs files",
}
"""Never imported."""

CALLS = {
    **dict.fromkeys(("eval", "exec", "compile", "__import__"), "text from a file would be code"),
    "importlib.import_module": "a name from a file would be code",
    **dict.fromkeys(
        ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"), "a shell reads names from files as commands"
    ),
    **dict.fromkeys(
        ("yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader"),
        "tags of YAML call Python; safe_load knows none",
    ),
    **dict.fromkeys(("shutil.unpack_archive", "torch.hub.load"), "archives and hubs bring code, and names that lead out"),
}
"""Never called, by their full name."""

METHODS = dict.fromkeys(
    ("extract", "extractall", "extractfile"),
    "members of an archive have names that lead out, and kinds that are no files; offsets are read",
)
"""Never called on anything."""

OPTIONS = {
    "shell": (False, "a shell reads names from files as commands"),
    "allow_pickle": (False, "an array of objects is a pickle"),
    "weights_only": (True, "else torch.load runs what the file says"),
    "trust_remote_code": (False, "a hub's repository would run"),
}
"""Keyword -> the only value that it may have."""

DEMANDED = {
    **dict.fromkeys(("np.load", "numpy.load"), ("allow_pickle", "its default may change, and a reader must see it")),
    "torch.load": ("weights_only", "its default was to run what the file says"),
    "Image.open": ("formats", "for some formats Pillow starts ghostscript or another program"),
}
"""Call -> keyword that it must have."""

EXCEPTIONS = {
    ("shards/stream.py", "shell=True"): "the command of machine.urls, which only machine.commands=true lets through",
    ("shards/stream.py", "'pipe:'"): "the same",
    ("pipeline/features/audio.py", "'pipe:'"): "ffmpeg's name for its own output",
}
"""(file, what): why it may be there."""

UNQUOTED = {
    "output": "names below results/ whose wildcards are held to letters, digits and '_' (common.smk)",
    "input": "the same; weights, which users name, go through params.given and params.weights",
    "log": "the same",
    "threads": "a number",
    "wildcards": "held to letters, digits and '_'; of the rule pretrained, whose name users choose, quoted",
    "params.folder": "the folder of an output",
    "params.checkpoints": "made of wildcards",
    "params.board": "made of wildcards",
    "params.seed": "a number",
    "params.shards": "a number",
    "params.workers": "a number",
    "params.threads": "a number",
    "params.source": "one of a fixed list",
    "params.protocols": "of a fixed list",
    "params.download": "an option or nothing",
    "params.alignment": "an option with a name below results/, or nothing",
    "params.companion": "options with names below results/ and a kind of a fixed list",
    "params.given": "quoted where it is made",
    "params.weights": "quoted where it is made",
}
"""What a rule's command may hold without :q, and why."""

FREE = ("results/pretrained/{vit}",)
"""Outputs with a wildcard that takes anything: everything in such a rule is quoted."""


def breaches(name: str, source: str) -> list[str]:
    """What a module of ours does that it may not, 'file:line: what: why' each."""
    tree = ast.parse(source)
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}
    found = [(node.lineno, what, why) for node in ast.walk(tree) if id(node) not in texts for what, why in _of(node)]
    return [f"{name}:{line}: {what}: {why}" for line, what, why in sorted(found) if (name, what) not in EXCEPTIONS]


def _of(node: ast.AST) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
        yield from ((f"import {module}", MODULES[module.split(".")[0]]) for module in modules if module.split(".")[0] in MODULES)
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from ((f"import {name}", CALLS[name]) for name in names if name in CALLS)
            if (node.module or "").startswith("webdataset") and {alias.name for alias in node.names} - {
                "Pipe",
                "gopen",
                "group_by_keys",
                "tar_file_expander",
            }:
                yield f"import {', '.join(names)}", "its pipelines decode pickles and open commands"
    elif isinstance(node, ast.Call):
        called = ast.unparse(node.func)
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in CALLS or called.startswith(("os.exec", "os.spawn", "os.posix_spawn", "pty.")):
            yield called, CALLS.get(called, "it starts programs")
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            yield called, METHODS[node.func.attr]
        if called in DEMANDED and DEMANDED[called][0] not in given:
            yield f"{called} without {DEMANDED[called][0]}", DEMANDED[called][1]
        for option, (right, why) in OPTIONS.items():
            if option in given and not (isinstance(given[option], ast.Constant) and given[option].value is right):
                yield f"{option}={ast.unparse(given[option])}", why
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("pipe:"):
        yield "'pipe:'", "webdataset opens it with a shell"


FIELD = re.compile(r"(?<!\{)\{([a-z_]+(?:\.[a-z_]+)?)(:q)?\}(?!\})")
RULE = re.compile(r"^(?:use )?rule \w+.*?(?=^(?:use )?rule |\Z)", re.MULTILINE | re.DOTALL)


def rule_breaches(name: str, text: str) -> list[str]:
    """What a file of rules does that it may not."""
    wrong = [
        f"{name}: '{word}': Python of its own instead of a step"
        for word in ("run:", "script:", "notebook:")
        if re.search(rf"^\s+{word}", text, re.MULTILINE)
    ]
    wrong += [
        f"{name}: {word}: see tests/torture/code_rules.py"
        for word in ("yaml.load(", "eval(", "exec(", "pickle", "os.system", "subprocess")
        if word in text
    ]
    for rule in RULE.findall(text):
        command = rule.partition("    shell:\n")[2]
        for field, quoted in FIELD.findall(command):
            reason = UNQUOTED.get(field) or UNQUOTED.get(field.partition(".")[0])
            if not quoted and (reason is None or (any(free in rule for free in FREE) and field != "params.download")):
                wrong.append(f"{name}: {rule.splitlines()[0]} {{{field}}} without :q: a shell reads it")
    return wrong


def all_breaches(repository: Path) -> tuple[int, list[str]]:
    """Files that were read, and what is wrong in them."""
    modules = [path for package in PACKAGES for path in sorted((repository / package).rglob("*.py"))]
    rules = [repository / "Snakefile", *sorted((repository / "workflow/rules").glob("*.smk"))]
    wrong = [line for path in modules for line in breaches(path.relative_to(repository).as_posix(), path.read_text())]
    wrong += [line for path in rules for line in rule_breaches(path.relative_to(repository).as_posix(), path.read_text())]
    return len(modules) + len(rules), wrong


PLANTED = (
    "import pickle",
    "from cloudpickle import loads",
    "import joblib",
    "def f():\n    import marshal",
    "import numpy as np\nnp.load(path)",
    "import numpy as np\nnp.load(path, allow_pickle=True)",
    "import numpy as np\nnp.load(path, allow_pickle=setting)",
    "torch.load(path)",
    "torch.load(path, weights_only=False)",
    "yaml.load(text, Loader=yaml.SafeLoader)",
    "yaml.unsafe_load(text)",
    "eval(text)",
    "exec(text)",
    "compile(text, '', 'eval')",
    "__import__(name)",
    "importlib.import_module(name)",
    "os.system(command)",
    "os.popen(command)",
    "os.execv(path, [])",
    "subprocess.run(command, shell=True)",
    "tar.extractall(folder)",
    "tar.extract(member)",
    "shutil.unpack_archive(path)",
    "Image.open(path)",
    "gopen('pipe:cat')",
    "from webdataset import WebDataset",
    "hub(name, trust_remote_code=True)",
)
"""Sources that must be found: the negative control."""

PLANTED_RULES = (
    'rule a:\n    shell:\n        "python -m a --root={params.root}"\n',
    'rule a:\n    shell:\n        "python -m a --config {params.config}"\n',
    'rule a:\n    output:\n        "results/pretrained/{vit}.safetensors",\n    shell:\n        "python -m a {output}"\n',
    "rule a:\n    run:\n        print(1)\n",
    "config = yaml.load(text)\n",
)
