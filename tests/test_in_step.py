"""Generated files are what their sources make of them, and the repository stays light and readable."""
import ast
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from conftest import BIN, ROOT, RUN_NOTEBOOKS, SETTINGS, copy_of_checkout, files, run
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from clipsynth.base.report import notebook_digest, provenance

NOTEBOOKS = sorted((ROOT / "nbs").rglob("[!._]*.ipynb"))
MODULES = sorted((ROOT / "clipsynth").rglob("[!_]*.py"))
LOCAL = re.compile(r"(?<![\w.:/-])/(work|root|home|tmp|Users|var/folders)/|<[\w.]+ object at 0x")


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def code(notebook: Path) -> list[str]:
    return ["".join(c["source"]) for c in cells(notebook) if c["cell_type"] == "code"]


def contents(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob(pattern))}


def test_notebooks_are_clean(tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path)
    run(BIN / "nbdev_clean", cwd=copy)
    after = contents(copy / "nbs", "*.ipynb")
    unclean = [name for name, text in contents(ROOT / "nbs", "*.ipynb").items() if after[name] != text]
    assert unclean == [], "run nbdev_clean"


def test_library_is_exported(tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path)
    for module in (copy / "clipsynth").rglob("*.py"):
        if module.name != "__init__.py":
            module.unlink()
    run(BIN / "nbdev_export", cwd=copy)
    made, there = contents(copy / "clipsynth", "*.py"), contents(ROOT / "clipsynth", "*.py")
    different = [name for name in {*made, *there} if made.get(name) != there.get(name)]
    assert different == [], "clipsynth/ is written by nbdev_export: edit the notebooks, then run it"


def test_readme_is_the_cover_notebook(tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path)
    run(BIN / "python", ".ci/readme.py", "--check", cwd=copy)
    run(BIN / "python", ".ci/notebooks.py", "refresh", "index", cwd=copy)
    run(BIN / "python", ".ci/readme.py", "--check", cwd=copy)  # numbers in it are those of reports/


@pytest.mark.parametrize("name", RUN_NOTEBOOKS)
def test_run_notebooks_take_parameters(name: str) -> None:
    tagged = [cell for cell in cells(ROOT / f"nbs/{name}.ipynb") if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    assert re.search(r"^profile(: str)? = \"mini\"", "".join(tagged[0]["source"]), re.M), "profile comes first"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: str(path.relative_to(ROOT / "nbs").with_suffix("")))
def test_notebook_is_fit_to_commit(notebook: Path) -> None:
    assert notebook.stat().st_size <= 500 * 1024
    for number, cell in enumerate(cells(notebook)):
        assert "injected-parameters" not in cell["metadata"].get("tags", []), f"cell {number}"
        for output in cell.get("outputs", []):
            assert output["output_type"] != "error", f"cell {number}"
            assert output.get("name") != "stderr", f"cell {number} keeps warnings or progress"
            shown = {k: v for k, v in output.get("data", {}).items() if not k.startswith(("image/png", "image/jpeg"))}
            assert not LOCAL.search(json.dumps([output.get("text", ""), shown], ensure_ascii=False)), f"cell {number}"
    first = "".join(cells(notebook)[0]["source"])
    assert re.match(r"# .+\n\n?> .+", first), "starts with a title and a line that says what it is for"
    stars = [text for text in code(notebook) if re.search(r"^\s*from \S+ import \*", text, re.M)]
    assert stars == []


def test_reports_tell_nothing_of_the_machine() -> None:
    texts = [p for p in files("reports") if p.suffix in {".md", ".csv", ".tex", ".json", ".svg"}]
    told = [str(p) for p in texts if LOCAL.search((ROOT / p).read_text(encoding="utf-8"))]
    assert told == []


def test_every_report_is_known() -> None:
    listed = provenance(ROOT / "reports")
    written = {p.relative_to("reports").as_posix() for p in files("reports") if p.parts[1] != "provenance"}
    assert written - {"README.md", "runs/.gitkeep"} == set(listed), "every file in reports/ is written by Report"
    stamps = ROOT / "reports/provenance"
    assert {str(path.relative_to(stamps).with_suffix("")) for path in stamps.rglob("*.json")} == set(RUN_NOTEBOOKS)


def test_every_report_is_in_step() -> None:
    """No file was changed by hand, and each notebook was run after its code was last changed."""
    listed = provenance(ROOT / "reports")
    changed = [name for name, about in listed.items()
               if hashlib.sha256((ROOT / "reports" / name).read_bytes()).hexdigest() != about["sha256"]]
    assert changed == [], "reports are written by notebooks: run `make reports`"
    stale = {about["notebook"] for about in listed.values() if about["code"] != notebook_digest(about["notebook"])}
    assert stale == set(), "the code of these notebooks has changed since: run `make reports`"


def test_tree_is_light() -> None:
    size = {path: (ROOT / path).stat().st_size for path in files()}
    assert sum(size.values()) <= 63.5 * 2**20, "a clone is quick, and fits the 64 MiB of a machine that is lent"
    assert sum(n for path, n in size.items() if path.parts[:2] == ("data", "weights")) <= 40 * 10**6


def test_sidebar_lists_every_notebook() -> None:
    sidebar = (ROOT / "nbs/sidebar.yml").read_text(encoding="utf-8")
    listed = re.findall(r"- (\S+\.ipynb)$", sidebar, re.M)
    assert sorted(listed) == sorted(path.relative_to(ROOT / "nbs").as_posix() for path in NOTEBOOKS)


def public(tree: ast.Module, names: set[str]) -> list[tuple[str, ast.AST]]:
    """The exported functions and classes, and the public methods of those classes."""
    found: list[tuple[str, ast.AST]] = []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in names:
            found.append((node.name, node))
            found += [(f"{node.name}.{item.name}", item) for item in getattr(node, "body", [])
                      if isinstance(node, ast.ClassDef) and isinstance(item, ast.FunctionDef)
                      and not item.name.startswith("_") and item.name != "forward"]
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT / "clipsynth").with_suffix("")))
def test_public_names_say_what_they_are(module: Path) -> None:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    names = next(ast.literal_eval(node.value) for node in tree.body
                 if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__")
    silent = [name for name, node in public(tree, set(names)) if not ast.get_docstring(node)]  # type: ignore[arg-type]
    assert silent == []


def requirements(*extras: str) -> dict[str, Requirement]:
    names = ["requirements", *(f"{extra}_requirements" for extra in extras)]
    listed = [Requirement(text) for name in names for text in SETTINGS["DEFAULT"][name].split()]
    return {canonicalize_name(requirement.name): requirement for requirement in listed}


def test_constraints_are_in_range() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    for name, requirement in requirements("dev").items():
        assert pinned[name] in requirement.specifier, f"{requirement} is pinned to {pinned[name]}"


def test_conda_environment_installs_the_same() -> None:
    parts = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(part["pip"] for part in parts if isinstance(part, dict))
    assert pip == ["-c constraints.txt", "-e .[dev]"], "pip reads settings.ini, through setup.py, as everywhere else"
    conda = dict(re.match(r"([\w-]+)=?(.*)", part).groups() for part in parts if isinstance(part, str))  # type: ignore
    assert {"python", "ffmpeg", "quarto", "pip"} <= set(conda)
    assert conda["quarto"].startswith("1.7.") and conda["python"] in ("3.10", "3.11", "3.12")


def test_setup_reads_settings() -> None:
    from importlib import metadata

    about, empty = metadata.metadata("clipsynth"), {"pip", "conda"}  # nbdev's own, of which we use none
    extras = {name.removesuffix("_requirements") for name in SETTINGS["DEFAULT"] if name.endswith("_requirements")}
    assert set(about.get_all("Provides-Extra") or []) == extras - empty, "after a new extra: pip install -e ."
    installed = {canonicalize_name(Requirement(text).name) for text in metadata.requires("clipsynth") or []}
    assert installed == set(requirements(*extras))
    assert metadata.version("clipsynth") == SETTINGS["DEFAULT"]["version"]


def test_actions_are_pinned() -> None:
    for workflow in sorted((ROOT / ".github/workflows").glob("*.yml")):
        text = workflow.read_text(encoding="utf-8")
        assert yaml.safe_load(text)["jobs"]
        uses = re.findall(r"uses: (\S+)", text)
        assert uses and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action) for action in uses)


def test_papermill_finds_our_kernel() -> None:
    assert shutil.which("papermill", path=str(BIN))
    names = {json.loads(path.read_text(encoding="utf-8"))["metadata"]["kernelspec"]["name"] for path in NOTEBOOKS}
    assert names == {"python3"}
