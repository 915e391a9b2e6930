"""What the tests share: where things are, a copy of the checkout, and one way to run commands."""
import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
RUN_NOTEBOOKS = re.findall(r"^RUN_NOTEBOOKS := (.+)$", (ROOT / "Makefile").read_text(), re.M)[0].split()
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")


def files(folder: str = ".") -> list[Path]:
    """The checkout's files, relative to its root: those that git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return [Path(name) for name in sorted(set(listed)) if name and (ROOT / name).is_file()]


def state(*folders: str) -> dict[str, str]:
    """A fingerprint of every file of the checkout in some folders."""
    return {str(p): hashlib.sha256((ROOT / p).read_bytes()).hexdigest() for f in folders for p in files(f)}


def surroundings(**changes: object) -> dict[str, str]:
    """An environment for commands: this Python first, none of the user's own clipsynth settings, no progress bars.

    One thread for each process: the work is small, two processes run side by side, and waiting threads would spin.
    """
    mine = {name: value for name, value in os.environ.items() if not name.startswith("CLIPSYNTH_")}
    mine.update(PATH=f"{BIN}{os.pathsep}{mine['PATH']}", CLIPSYNTH_QUIET="1", OMP_NUM_THREADS="1")
    return {**mine, **{name: str(value) for name, value in changes.items()}}


def run(*command: object, cwd: Path = ROOT, check: bool = True, timeout: float = 600, stdin: int = subprocess.DEVNULL,
        **changes: object) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing to read; where it must succeed, show what it said when it does not."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=surroundings(**changes), stdin=stdin, timeout=timeout,
                          capture_output=True, text=True)
    if check and done.returncode:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        pytest.fail(f"{' '.join(map(str, command))}: exit {done.returncode}\n{said}", pytrace=False)
    return done


def copy_of_checkout(folder: Path) -> Path:
    """The checkout's files, copied to a folder where a test may change them."""
    for path in files():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, folder / path)
    return folder


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One copy of the checkout for the tests that leave the notebooks' code alone."""
    return copy_of_checkout(tmp_path_factory.mktemp("checkout"))


@dataclass(frozen=True)
class SmokeRun:
    """What the run notebooks made at smoke size."""
    data: Path
    reports: Path
    untouched: bool  # whether the committed reports and data stayed as they were


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> SmokeRun:
    """Every run notebook, in order, each in a fresh kernel, at smoke size, in a room that begins empty."""
    before, folder = state("reports", "data"), tmp_path_factory.mktemp("smoke")
    data, reports = folder / "data", folder / "reports"
    for name in RUN_NOTEBOOKS:
        run(BIN / "papermill", f"nbs/{name}.ipynb", folder / f"{name}.ipynb", "-p", "profile", "smoke",
            "--no-progress-bar", CLIPSYNTH_DATA=data, CLIPSYNTH_REPORTS=reports)
    return SmokeRun(data, reports, state("reports", "data") == before)


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that call the library see none of the user's own settings, and no progress bars."""
    for name in [name for name in os.environ if name.startswith("CLIPSYNTH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPSYNTH_QUIET", "1")
