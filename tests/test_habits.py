"""What people find beside the code: picture, walks and words of CONTRIBUTING, hooks, forms, the lock file."""
import ast
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from conftest import BIN, ROOT, SETTINGS, files, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ABOUT = SETTINGS["DEFAULT"]
PAGE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
HOP = re.compile(r"^( *)- `([\w./]+)`(?:: .+)?$")


def script(name: str) -> ModuleType:
    """A script of .ci/ as a module."""
    about = importlib.util.spec_from_file_location(name, ROOT / f".ci/{name}.py")
    assert about and about.loader
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


def read(path: str) -> dict:
    """A YAML file."""
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def section(title: str) -> list[str]:
    """The lines of CONTRIBUTING.md below a heading, up to the next one."""
    return re.split(rf"^#+ {re.escape(title)}\n", PAGE, flags=re.M)[1].split("\n#")[0].splitlines()


# The picture

def test_picture_is_in_step() -> None:
    run(BIN / "python", ".ci/architecture.py", "--check")


def library(root: Path, **modules: str) -> Path:
    """A library with folders: `model_unet` is clipsynth/model/unet.py."""
    for name, text in modules.items():
        path = root / "clipsynth" / f"{name.replace('_', '/', 1)}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_picture_knows_folders(tmp_path: Path) -> None:
    """Imports by any spelling and depth; arrows that follow from others, or lead to what all import, are left out."""
    checking = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from clipsynth.data.store import Store\n"
    root = library(
        tmp_path, base_files="import os", model_layers="from ..base.files import UserError",
        model_unet=f"{checking}from .layers import a\nfrom clipsynth.base.files import b",
        data_store="from clipsynth.base import files\ndef f():\n    from ..model import unet",
        engine_synth="import clipsynth.model.unet\nfrom clipsynth.model.layers import a\nfrom ..base import files")
    drawn = script("architecture").picture(root).splitlines()
    assert [line.strip() for line in drawn if "-->" in line or "-.->" in line] == [
        "data_store -.-> model_unet", "engine_synth --> model_unet", "model_unet --> model_layers"]
    assert [line.partition("[")[2] for line in drawn if "subgraph" in line] == [
        '"base"]', '"model"]', '"data"]', '"engine"]']


def test_circles_are_refused(tmp_path: Path) -> None:
    root = library(tmp_path, base_a="import clipsynth.base.b", base_b="from .a import x")
    with pytest.raises(SystemExit, match="import each other when they are loaded: base.a, base.b"):
        script("architecture").picture(root)


def test_imports_between_folders_go_one_way(tmp_path: Path) -> None:
    """The library's own do, or its picture could not be drawn; an import inside of a function counts, too."""
    root = library(tmp_path, base_a="def f():\n    from clipsynth.model import b", model_b="")
    with pytest.raises(SystemExit, match="one way, base <- .*: base.a imports model.b"):
        script("architecture").picture(root)


# The walks

MODULES = script("architecture").modules(ROOT)


@cache
def parsed(hop: str) -> tuple[str, ast.Module, list[str]]:
    """The module of a hop, its code, and the names that lead to the function inside it."""
    if hop.endswith(".ipynb"):
        cells = json.loads((ROOT / hop).read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        return hop, ast.parse("\n".join(text for text in code if not re.match(r"#\|\s*exports?\b", text))), []
    words = hop.split(".")
    for depth in range(1, len(words)):
        start = ".".join(words[:depth])
        found = [name for name in MODULES if name == start or name.endswith(f".{start}")]
        if len(found) == 1:
            code = MODULES[found[0]].read_text(encoding="utf-8")
            return found[0], ast.parse(code), words[depth:]
    raise AssertionError(f"{hop}: no such module, or more than one")


def inside(tree: ast.AST, name: str) -> ast.AST | None:
    """The function, class or value of that name."""
    for node in getattr(tree, "body", []):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if getattr(node, "name", None) == name or any(getattr(target, "id", None) == name for target in targets):
            return node
    return None


def called(node: ast.AST) -> set[str]:
    """The names that are called, and those of functions that are handed on or looked up."""
    calls = {n.func.attr for n in ast.walk(node) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
    return calls | {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


@cache
def reached(hop: str) -> set[str]:
    """What a hop calls, itself or by way of private functions of its module and methods of its class."""
    _, tree, names = parsed(hop)
    scopes: list[ast.AST] = [tree]
    for name in names:
        node = inside(scopes[-1], name)
        assert node, f"{hop}: no such function"
        scopes.append(node)
    found, todo = set[str](), called(scopes[-1])
    while todo - found:
        name = (todo - found).pop()
        found.add(name)
        places = [tree] if name.startswith("_") else []
        places += scopes[1:-1]  # its class
        for helper in filter(None, (inside(place, name) for place in places)):
            todo |= called(helper)
    return found


def walk(title: str) -> list[list[str]]:
    """Each hop with the hops that lead to it, the first one first."""
    hops: list[list[str]] = []
    for match in filter(None, map(HOP.match, section(title))):
        depth = len(match[1]) // 2
        above = hops[-1][:depth] if hops else []
        assert len(above) == depth, f"{match[2]} is indented too far"
        hops.append([*above, match[2]])
    return hops


WALKS = ["From a query to a file", "From a video to a loss", "From a checkpoint to a table"]


@pytest.mark.parametrize("title", WALKS)
def test_walks_are_true(title: str) -> None:
    hops = walk(title)
    assert 5 <= len(hops) <= 12, "at most a dozen hops"
    assert len(hops) == sum(line.lstrip().startswith("- ") for line in section(title)), "a line is no hop"
    for *before, hop in hops:
        names = parsed(hop)[2]
        reached(hop)  # there is such a function
        wanted = names[-2] if names and names[-1] in ("__init__", "__call__") else (names or [""])[-1]
        if before:
            assert wanted in reached(before[-1]), f"{hop} is not called in {before[-1]}"
        modules = [parsed(name)[0] for name in (*before, hop)]
        left = [a for a, b in zip(modules, modules[1:], strict=False) if a != b]
        assert len(left) == len(set(left)) and modules[-1] not in left, f"{hop}: goes back to a module"


def test_a_walk_that_is_wrong_is_noticed() -> None:
    assert "vocode" in reached("synth.Voiced.waveforms")
    assert "vocode" not in reached("queries.Queries.embed_text")
    for hop in ("synth.Synthesizer.no_such", "no_such.function"):
        with pytest.raises(AssertionError, match=hop):
            reached(hop)


# The words

def test_each_thing_has_one_word() -> None:
    lines = [line for line in section("Words") if line.startswith("| ")][2:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    terms = [row[0] for row in rows]
    assert all(len(row) == 3 and row[1] for row in rows)
    assert terms == sorted(set(terms)), "in the order of the alphabet, each once"
    assert not set(terms) & {word for row in rows for word in row[2].split(", ")}, "a term is to be replaced by another"


# Citation and changes

def test_citation() -> None:
    about = read("CITATION.cff")
    assert about["cff-version"] == "1.2.0" and about["type"] == "software"
    assert {"message", "title", "authors"} <= set(about)
    assert about["authors"] == [{"name": ABOUT["author"]}]
    assert about["version"] == ABOUT["version"] and about["repository-code"] == ABOUT["git_url"]
    assert about["license"] == "Apache-2.0" and (ROOT / "LICENSE").read_text(encoding="utf-8").split()[0] == "Apache"
    (paper,) = about["references"]
    assert {"type", "title", "authors", "year", "url"} <= set(paper) and paper["title"].startswith("CLIPSynth")
    for author in about["authors"] + paper["authors"]:
        assert set(author) in ({"name"}, {"family-names", "given-names"})


def test_changelog() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    heads = re.findall(r"^## (.+)$", text, re.M)
    assert heads[0] == "[Unreleased]"
    released = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)", head) for head in heads[1:]]
    assert all(released), "## [1.2.3] - 2026-12-31"
    assert released[0] and released[0][1] == ABOUT["version"], "a new version needs its section"
    dates = [date.fromisoformat(match[2]) for match in released if match]
    assert dates == sorted(dates, reverse=True) and read("CITATION.cff")["date-released"] == dates[0].isoformat()
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(re.findall(r"^### (.+)$", text, re.M)) <= kinds


# Hooks

HOOKS = [hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]


def test_hooks_need_no_network() -> None:
    assert all(repo["repo"] == "local" for repo in read(".pre-commit-config.yaml")["repos"])
    assert all(hook["language"] == "system" for hook in HOOKS)


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_hook_exists(hook: dict) -> None:
    program, *words = hook["entry"].split()
    assert program.startswith(".venv/bin/") and os.access(BIN / Path(program).name, os.X_OK)
    assert all((ROOT / word).is_file() for word in words if word.endswith(".py"))
    if "files" in hook:
        assert any(re.search(hook["files"], str(path)) for path in files())


def test_hooks_run(tmp_path: Path) -> None:
    """A clean notebook may be committed; one that is not is cleaned, which stops the commit. The same for Python."""
    for name in (".pre-commit-config.yaml", "settings.ini", "pyproject.toml", "setup.py", "nbs/index.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    (tmp_path / ".venv").symlink_to(BIN.parent)
    home = tmp_path / ".home"

    def hook(name: str) -> str:
        done = run(BIN / "pre-commit", "run", name, "--all-files", cwd=tmp_path, check=False, PRE_COMMIT_HOME=home)
        assert done.returncode == ("Failed" in done.stdout), done.stdout + done.stderr
        return done.stdout

    for command in ("init --quiet", "add .pre-commit-config.yaml setup.py nbs"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    notebook = tmp_path / "nbs/index.ipynb"
    clean = notebook.read_text(encoding="utf-8")
    assert "Passed" in hook("nbdev-clean") and "Passed" in hook("ruff")
    notebook.write_text(clean.replace('"execution_count": null', '"execution_count": 7', 1), encoding="utf-8")
    (tmp_path / "setup.py").write_text("import os\n", encoding="utf-8")
    assert "files were modified by this hook" in hook("nbdev-clean") and "F401" in hook("ruff")
    assert notebook.read_text(encoding="utf-8") == clean


# Forms, container, lock

def forms() -> Iterator[Path]:
    yield from sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"))


def test_issue_forms() -> None:
    assert [path.stem for path in forms()] == ["bug", "config", "question", "result"]
    for path in forms():
        about = read(str(path.relative_to(ROOT)))
        if path.stem == "config":
            assert all({"name", "url", "about"} == set(link) for link in about["contact_links"])
            continue
        assert {"name", "description", "body"} <= set(about)
        asked = [part for part in about["body"] if part["type"] != "markdown"]
        assert len({part["id"] for part in asked}) == len(asked) and all(part["attributes"]["label"] for part in asked)
        assert {part["type"] for part in asked} <= {"textarea", "input", "dropdown", "checkboxes"}
        assert any(part.get("validations", {}).get("required") for part in asked)
        for place in re.findall(r"placeholder: (reports/[\w./]+)", path.read_text(encoding="utf-8")):
            assert (ROOT / place).is_file()


def test_devcontainer() -> None:
    about = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8"))
    assert ":3.11" in about["image"] and 8888 in about["forwardPorts"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"make (\S+)", about["postCreateCommand"]):
        assert target == ".venv/.ready" or re.search(rf"^{target}:", makefile, re.M)


def pins(name: str) -> dict[str, str]:
    """The versions that a file names."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line.partition(" --hash")[0].strip() for line in text.splitlines() if line and not line.startswith("#")]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(one.name): str(one.specifier) for one in found}


def test_lock_is_the_constraints_with_digests() -> None:
    assert pins("requirements.lock") == pins("constraints.txt"), "run `make lock` after `make constraints`"
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8").replace("\\\n", "")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    bare = [line for line in lines if not re.search(r" --hash=sha256:[0-9a-f]{64}$", line)]
    assert bare == [] and "://" not in text
