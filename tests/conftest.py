"""What the tests share: where things are, a copy of the checkout, and one way to run commands."""
import configparser
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FIRST = "smoke", "test_paper_profile", "test_records", "test_papermill_forms", "test_notebooks"  # the longest groups
SMOKE = "test_curve", "test_data", "test_listen_build", "test_notebooks"
LIMIT = 3_000  # seconds: more than the slowest part takes on a busy machine, less than CI waits; for what hangs
RUN_NOTEBOOKS = re.findall(r"^RUN_NOTEBOOKS := (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)[0].split()
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # one of two processes: waiting threads would spin
SETTINGS = configparser.ConfigParser(delimiters=["="])
SETTINGS.read(ROOT / "settings.ini", encoding="utf-8")


def files(folder: str = ".") -> list[Path]:
    """The checkout's files, relative to its root: those that git tracks or would track.

    What was downloaded as a zip is no repository, so an empty one is made beside it for the moment.
    """
    if not shutil.which("git"):
        pytest.exit("the tests need git, to know which files belong to the checkout", 2)
    with tempfile.TemporaryDirectory() as name:
        where = []
        if not (ROOT / ".git").exists():
            subprocess.run(["git", "init", "--quiet", name], capture_output=True, check=True)
            where = [f"--git-dir={name}/.git", f"--work-tree={ROOT}"]
        command = ["git", *where, "ls-files", "--cached", "--others", "--exclude-standard", "-z", folder]
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


def run(*command: object, cwd: Path = ROOT, check: bool = True, stdin: int = subprocess.DEVNULL,
        **changes: object) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing to read; where it must succeed, show what it said when it does not."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=surroundings(**changes), stdin=stdin, timeout=LIMIT,
                          capture_output=True, text=True)
    if check and done.returncode:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-6000:]}"
        pytest.fail(f"{' '.join(map(str, command))}: exit {done.returncode}\n{said}", pytrace=False)
    return done


def start(*command: object, stdout: int = subprocess.DEVNULL, stderr: int = subprocess.DEVNULL, cwd: Path = ROOT,
          **changes: object) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, with nothing to read.

    A process that a shell starts in the background ignores Ctrl-C, and so would all that it starts: not this command.
    """
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a child ignores what is ignored when it starts
    try:
        return subprocess.Popen([str(c) for c in command], cwd=cwd, env=surroundings(**changes), text=True,
                                stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True)
    finally:
        signal.signal(signal.SIGINT, ours)


def wait_until(happened: Callable[[], bool], *processes: subprocess.Popen[str], pause: float = 0.005) -> bool:
    """Wait until something has happened, or a process that should bring it about has ended; tells whether it has."""
    limit = time.monotonic() + LIMIT
    while not happened():
        if any(process.poll() is not None for process in processes) or time.monotonic() > limit:
            return happened()
        time.sleep(pause)
    return True


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
    """Every run notebook, in order, each in a fresh kernel, at smoke size, in a data folder that begins empty."""
    before, folder = state("reports", "data"), tmp_path_factory.mktemp("smoke")
    data, reports = folder / "data", folder / "reports"
    for name in RUN_NOTEBOOKS:
        copy = folder / "runs" / f"{name}.ipynb"
        copy.parent.mkdir(parents=True, exist_ok=True)
        run(BIN / "papermill", f"nbs/{name}.ipynb", copy, "-p", "profile", "smoke",
            "--no-progress-bar", "--start-timeout", LIMIT, CLIPSYNTH_DATA=data, CLIPSYNTH_REPORTS=reports)
    return SmokeRun(data, reports, state("reports", "data") == before)


def group(test: str) -> str:
    """What one process runs: a file's tests, but those of four files, which share the smoke run, are one group."""
    name = Path(test.partition("::")[0]).stem
    return "smoke" if name in SMOKE and "nbdev_test" not in test else name


@pytest.hookimpl(optionalhook=True)  # pytest-xdist's: `make test` has two processes, `-n 0` has one
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    return Groups(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest groups come first, so that the processes end together; the smoke run is made by one of them."""
    order = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(group(item.nodeid), len(FIRST)))
    smoke = {item.path.stem for item in items if "smoke_run" in getattr(item, "fixturenames", ())}
    if smoke - set(SMOKE):
        raise pytest.UsageError(f"{', '.join(smoke - set(SMOKE))} asks for the smoke run: name it in SMOKE")


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that call the library see none of the user's own settings, and no progress bars."""
    for name in [name for name in os.environ if name.startswith("CLIPSYNTH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CLIPSYNTH_QUIET", "1")
