"""`papermill nbs/04_eval.ipynb` rebuilds the committed tables and figures, however and wherever it is said."""
import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import BIN, ROOT, run, state

from clipsynth.base.report import provenance, reported_values

NOTEBOOK = ROOT / "nbs/04_eval.ipynb"
THREADS = {"OMP_NUM_THREADS": os.cpu_count(), "OMP_WAIT_POLICY": "PASSIVE"}  # as many as `make reports` has


def executed(text: str) -> bool:
    """Whether this is the notebook, run to its end without an error."""
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    return cells[-1]["execution_count"] is not None and not any(
        output["output_type"] == "error" for cell in cells for output in cell["outputs"])


def two_arguments(notebook: str, where: Path, folder: Path) -> str:
    """A path for the executed copy; works with anything as standard input, so a pipe is tried."""
    copy = folder / "executed.ipynb"
    run(BIN / "papermill", notebook, copy, cwd=where, stdin=subprocess.PIPE, CLIPSYNTH_REPORTS=folder, **THREADS)
    return copy.read_text(encoding="utf-8")


def short(notebook: str, where: Path, folder: Path) -> str:
    """No path at all: papermill accepts it when its output is not a terminal."""
    return run(BIN / "papermill", notebook, cwd=where, CLIPSYNTH_REPORTS=folder, **THREADS).stdout


def dash(notebook: str, where: Path, folder: Path) -> str:
    """The executed copy goes to standard output."""
    return run(BIN / "papermill", notebook, "-", cwd=where, CLIPSYNTH_REPORTS=folder, **THREADS).stdout


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The reports of every form and from every folder, each in a folder of its own, two runs at a time.

    Papermill reads the form and `base.places` finds the folder, so five of the nine pairs stand for all.
    """
    before = state("reports", "data", "nbs")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    places = {"root": ("nbs/04_eval.ipynb", ROOT), "nbs": ("04_eval.ipynb", ROOT / "nbs"),
              "away": (str(NOTEBOOK), elsewhere)}
    folders = {}

    def one(form, place: str) -> None:
        notebook, where = places[place]
        name = f"{form.__name__}-{place}"
        folders[name] = tmp_path_factory.mktemp(name)
        assert executed(form(notebook, where, folders[name])), name

    with ThreadPoolExecutor(2) as pool:
        pairs = [(two_arguments, "root"), (short, "nbs"), (two_arguments, "away"), (short, "away"), (dash, "away")]
        list(pool.map(lambda pair: one(*pair), pairs))
    assert state("reports", "data", "nbs") == before, "CLIPSYNTH_REPORTS keeps a run away from reports/"
    assert not list(elsewhere.iterdir()), "nothing is left behind where it was started"
    return folders


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "tables").iterdir())}


def test_every_form_succeeds(runs: dict[str, Path]) -> None:
    first, *others = [tables(folder) for folder in runs.values()]
    assert all(other == first for other in others)


def test_reports_are_in_step(runs: dict[str, Path]) -> None:
    folder = next(iter(runs.values()))
    committed, made = provenance(ROOT / "reports"), provenance(folder)
    assert set(made) == {name for name, entry in committed.items() if entry["notebook"] == "04_eval"}
    there = tables(ROOT / "reports")
    assert [name for name, text in tables(folder).items() if there.get(name) != text] == [], "run `make reports`"
    kept = ("notebook", "code", "profile", "parameters", "inputs", "caption")
    stale = [name for name, entry in made.items() if any(entry[k] != committed[name][k] for k in kept)]
    assert stale == [], "made by other code or from other data than stands here: run `make reports`"
    assert reported_values(folder).items() <= reported_values(ROOT / "reports").items()
