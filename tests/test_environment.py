"""Whatever machine it is: foreign files, full disks, odd paths and locales, clusters, other kernels, early Ctrl-C."""
import ast
import errno
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import BIN, ROOT, RUN_NOTEBOOKS, files, run, surroundings
from training import trainer

import clipsynth.engine.synth
from clipsynth.base.files import check_writable, write_atomic
from clipsynth.base.places import data_dir, repo_root, reports_dir
from clipsynth.base.process import COMMAND, UserError, notice
from clipsynth.base.weights import load_weights
from clipsynth.engine.command import main
from clipsynth.engine.sampling import SAMPLERS
from clipsynth.engine.synth import Synthesizer


def directory(path: Path) -> None:
    path.mkdir()


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


FOREIGN: list[bytes | Callable[[Path], None]] = [
    b"no section at all", b"[a]\n[a]\n", "[DEFAULT]\nname = Zoë\n".encode("latin-1"),
    b"[DEFAULT]\nlib_name = %(gone)s\n", b"[DEFAULT]\nlib_name = other\n", b"\x00\xff" * 50,
    b"[DEFAULT]\nlib_name clipsynth\n", directory, loop, dangling]


@pytest.mark.parametrize("content", FOREIGN, ids=lambda content: getattr(content, "__name__", repr(content)[:40]))
def test_a_foreign_settings_file_does_not_matter(content: bytes | Callable[[Path], None], tmp_path: Path) -> None:
    settings, below = tmp_path / "settings.ini", tmp_path / "a/b"
    settings.write_bytes(content) if isinstance(content, bytes) else content(settings)
    below.mkdir(parents=True)
    assert repo_root(below) == ROOT


def test_a_working_directory_that_was_deleted(tmp_path: Path) -> None:
    code = (f"import os; os.rmdir({str(tmp_path / 'gone')!r})\n"
            "from clipsynth.base.places import data_dir; print(data_dir())")
    (tmp_path / "gone").mkdir()
    assert run(BIN / "python", "-c", code, cwd=tmp_path / "gone", PYTHONPATH=ROOT).stdout.strip() == str(ROOT / "data")


@pytest.mark.parametrize("name", ["CLIPSYNTH_DATA", "CLIPSYNTH_REPORTS"])
def test_a_relative_folder_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in ("data", "./data", "~nobody-of-this-name/data", " "):
        monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=f"{name} is .* give the whole path") as told:
            (data_dir if name == "CLIPSYNTH_DATA" else reports_dir)()
        assert "\n" not in str(told.value)


# Files

@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_the_reason_of_a_failed_write_is_told(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the unfinished file cannot be removed."""

    def fails(part: Path) -> None:
        raise OSError(number, os.strerror(number))

    def stays(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", stays)
    with pytest.raises(UserError, match=f"cannot write .*{os.strerror(number)}"):
        write_atomic(tmp_path / "file", fails)


def test_a_name_of_full_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("n" * 240 + ".wav", "n" * 251 + ".wav", "é" * 125 + ".wav"):
        check_writable(name)
        write_atomic(name, lambda part: part.write_bytes(b"sound"))
        assert Path(name).read_bytes() == b"sound"
    assert len(list(tmp_path.iterdir())) == 3, "and nothing is left beside them"
    assert main(["synth", "violin", "-o", "n" * 252 + ".wav"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "File name too long" in said and "shorter" in said
    with pytest.raises(UserError, match="shorter"):
        write_atomic("a." + 255 * "x", lambda part: part.touch())


@pytest.mark.parametrize("failure", [
    MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    OSError(errno.ENOMEM, "Cannot allocate memory"), OSError(errno.EIO, "I/O error")], ids=repr)
def test_weights_that_cannot_be_read_now_are_not_blamed(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*words: object, **options: object) -> None:
        raise failure

    monkeypatch.setattr("safetensors.safe_open", fails)
    with pytest.raises(UserError, match="does not fit in memory|check its rights and the disk") as told:
        load_weights(ROOT / "data/weights/hifigan.safetensors")
    assert "train" not in str(told.value) and "\n" not in str(told.value)


def test_text_files_have_an_encoding() -> None:
    """In a Latin-1 locale, `open` without one reads other letters than were written."""
    bare = []
    for path in [p for p in files() if p.suffix == ".py" and p.parts[0] in ("clipsynth", ".ci", "setup.py")]:
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            mode = next((a.value for a in node.args[1:2] if isinstance(a, ast.Constant)), "")
            method = isinstance(node.func, ast.Attribute)
            text = method and name in ("read_text", "write_text")
            text |= not method and name == "open" and "b" not in str(mode) and ".lock" not in ast.dump(node)
            if text and not any(k.arg in ("encoding", None) for k in node.keywords):
                bare.append(f"{path}:{node.lineno}")
    assert bare == []


# The command

FAKE = """
import os, signal, sys, types
import clipsynth.base.process
if {restore}: signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest in the background ignores it
clipsynth.base.process.COMMAND = "fake"
clipsynth.base.process.entry()
"""


def command(tmp_path: Path, body: str, *words: str, **changes: object) -> subprocess.CompletedProcess[bytes]:
    """Run the console command with another `main`."""
    (tmp_path / "fake.py").write_text(body, encoding="utf-8")
    about = surroundings(PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}", **changes)
    return subprocess.run([str(BIN / "python"), "-c", FAKE.format(restore=False), *words], cwd=tmp_path, env=about,
                          capture_output=True, timeout=300)


@pytest.mark.parametrize("locale", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
                                    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LANG": ""},
                                    {"PYTHONIOENCODING": "latin-1"}], ids=str)
def test_text_in_any_locale(locale: dict[str, str], tmp_path: Path) -> None:
    body = ("import sys\ndef main():\n    word = sys.argv[1]\n    open(word + '.txt', 'w').write(word + ' ♪')\n"
            "    print(word, '♪')\n    return 0\n")
    done = command(tmp_path, body, "Zoë", **locale)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "Zoë.txt").read_bytes().startswith("Zoë".encode())
    assert done.stdout.startswith(("Zoë ".encode(), "Zoë ".encode("latin-1")))


def test_a_mistake_in_another_locale_is_one_line(tmp_path: Path) -> None:
    words = ["synth", "violin", "--weights", "Zoë", "-o", "a.wav"]
    done = run(BIN / "python", "-c", "from clipsynth.base.process import entry; entry()", *words, cwd=tmp_path,
               check=False, PYTHONPATH=ROOT, LC_ALL="C", PYTHONUTF8=0, PYTHONCOERCECLOCALE=0)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1) and "Zoë" in done.stderr


@pytest.mark.parametrize("body", ["time.sleep(100)", "try: time.sleep(100)\nexcept BaseException: raise ImportError"],
                         ids=["asleep", "swallowed"])
def test_an_interruption_during_imports(body: str, tmp_path: Path) -> None:
    (tmp_path / "fake.py").write_text(f"import time\nprint('importing', flush=True)\n{body}\n", encoding="utf-8")
    about = surroundings(PYTHONPATH=f"{ROOT}{os.pathsep}{tmp_path}")
    with subprocess.Popen([str(BIN / "python"), "-c", FAKE.format(restore=True)], env=about, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 130 and said == "clipsynth: interrupted; run the same command again to go on\n"


def test_what_ends_the_command(tmp_path: Path) -> None:
    """Too little memory is one line, a mistake of ours a traceback, a reader that left nothing at all."""
    done = command(tmp_path, "def main(): raise MemoryError\n")
    assert done.returncode == 2 and done.stderr == b"clipsynth: not enough memory (MemoryError)\n"
    done = command(tmp_path, "import torch\ndef main(): torch.empty(2**60)\n")
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1
    done = command(tmp_path, "def main(): raise RuntimeError('ours')\n")
    assert done.returncode == 1 and b"Traceback" in done.stderr
    done = command(tmp_path, "def main():\n    raise BrokenPipeError\n")
    assert done.returncode == 141 and done.stderr == b""


def test_the_command_starts_there() -> None:
    from importlib import metadata

    assert (ROOT / "settings.ini").read_text(encoding="utf-8").count("clipsynth=clipsynth.base.process:entry") == 1
    assert hasattr(__import__(COMMAND, fromlist=["main"]), "main") and metadata.version("clipsynth")
    heavy = "import sys, clipsynth.base.process; print({'torch', 'matplotlib', 'librosa'} & set(sys.modules) or '')"
    assert run(BIN / "python", "-c", heavy, PYTHONPATH=ROOT).stdout.strip() == ""


# Threads, processes, caches

@pytest.fixture
def four_threads() -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_threads_follow_the_work(four_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(diffusion: object, denoiser: object, condition: torch.Tensor, shape: tuple[int, ...],
            **options: object) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        return torch.zeros(len(condition), *shape)

    monkeypatch.setitem(SAMPLERS, "spy", spy)
    made = Synthesizer("mini-music", device="cpu", sampler="spy")
    query = torch.ones(6, made.unet.config.condition)
    for count in (1, 2, 6):
        made.mels(query[:count], list(range(count)), steps=1)
        assert torch.get_num_threads() == 4
    assert seen == [1, 2, 4]
    monkeypatch.setattr(clipsynth.engine.synth, "vocode", lambda *_, **__: torch.full((1, 8), torch.get_num_threads()))
    assert made.waveforms(torch.zeros(1, 64, 64))[0, 0] == 1 and torch.get_num_threads() == 4


def test_waiting_is_passive_before_torch_is_loaded() -> None:
    """Whichever module is imported first."""
    code = ("import sys, clipsynth.model.unet, os; names = list(sys.modules)\n"
            "print(os.environ['OMP_WAIT_POLICY'], names.index('clipsynth.base.process') < names.index('torch'))")
    assert run(BIN / "python", "-c", code, PYTHONPATH=ROOT).stdout == "PASSIVE True\n"
    assert run(BIN / "python", "-c", code, PYTHONPATH=ROOT, OMP_WAIT_POLICY="ACTIVE").stdout == "ACTIVE True\n"


def test_no_shared_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from clipsynth.data.workers import in_workers
    from clipsynth.worlds.film import render_all

    def no_lock(self: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("multiprocessing.context.BaseContext.Lock", no_lock)
    assert sorted(result for _, result in in_workers(abs, [-1, 2], 2)) == [1, 2]
    done: list[int] = []
    render_all(done.append, [(1,), (2,)], 2)
    said = capsys.readouterr().err
    assert done == [1, 2] and said.count("\n") == 2 and "one process does it all" in said


def test_a_home_that_cannot_be_written() -> None:
    code = ("import clipsynth.base.process, os, matplotlib\n"
            "from librosa.filters import mel; mel(sr=16000, n_fft=2048)\n"
            "print(all(os.environ[n].startswith(os.environ['TMPDIR']) for n in ('NUMBA_CACHE_DIR', 'MPLCONFIGDIR')))")
    about = {name: value for name, value in surroundings(HOME=os.devnull, PYTHONPATH=ROOT).items()
             if name not in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")}
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        done = subprocess.run([str(BIN / "python"), "-c", code], env={**about, "TMPDIR": name}, capture_output=True,
                              text=True, timeout=300)
        assert (done.stdout, done.stderr) == ("True\n", "") and list(Path(name).iterdir()) == [], "and is removed"


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("about", [
    {"WORLD_SIZE": "4"}, {"WORLD_SIZE": "many"}, {"WORLD_SIZE": ""}, {"LOCAL_RANK": "1"},
    {"WORLD_SIZE": "2", "RANK": "1"}, {"OMPI_COMM_WORLD_SIZE": "8"}], ids=str)
def test_a_cluster_that_launched_nothing(about: dict[str, str], no_launcher: None, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in about.items():
        monkeypatch.setenv(name, value)
    name = next(iter(about))
    with pytest.raises(UserError, match=f"{name}={about[name]} asks for several processes.*env -u {name}"):
        trainer("waves", tmp_path)
    notice("heard")
    assert capsys.readouterr().err == "clipsynth: heard\n", "nobody else would say it"


@pytest.mark.parametrize("about", [{"RANK": "3"}, {"WORLD_SIZE": "1"}, {"RANK": "x"}], ids=str)
def test_a_rank_that_is_nobodys(about: dict[str, str], no_launcher: None, tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in about.items():
        monkeypatch.setenv(name, value)
    assert trainer("waves", tmp_path).processes == 1
    notice("heard")
    assert capsys.readouterr().err == "clipsynth: heard\n"


def test_a_launcher_that_is_gone(tmp_path: Path) -> None:
    """Its variables are all there, but its port belongs to somebody else."""
    code = ("import sys; from pathlib import Path\n"
            "from clipsynth.base.process import UserError; from training import trainer\n"
            "try: trainer('waves', Path('run'))\nexcept UserError as error: print(error)")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run(BIN / "python", "-c", code, cwd=tmp_path, PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
                   WORLD_SIZE=2, RANK=0, LOCAL_RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=taken.getsockname()[1],
                   CUDA_VISIBLE_DEVICES="")
    assert done.stdout.startswith("the processes cannot meet at 127.0.0.1:") and "accelerate launch" in done.stdout


# The clone

def test_a_zip_without_git(checkout: Path) -> None:
    assert not (checkout / ".git").exists()
    code = "from conftest import files; print(*files(), sep='\\n')"
    (checkout / "data/mini-music").mkdir(parents=True, exist_ok=True)
    (checkout / "data/mini-music/ignored.mp4").touch()
    listed = run(BIN / "python", "-c", code, cwd=checkout / "tests", PYTHONPATH=checkout).stdout.splitlines()
    shutil.rmtree(checkout / "data/mini-music")
    assert [Path(name) for name in listed] == files()


def kernel(folder: Path, *words: str) -> Path:
    """A folder for JUPYTER_PATH, with another kernel of the name python3."""
    (folder / "kernels/python3").mkdir(parents=True)
    about = {"argv": [*words, "-f", "{connection_file}"], "display_name": "Other", "language": "python"}
    (folder / "kernels/python3/kernel.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


def test_make_in_a_folder_of_an_odd_name(tmp_path: Path) -> None:
    """A space, quotes and letters in the clone's path; another kernel first; no UTF-8 in the locale."""
    clone = tmp_path / "a \"clone\" of Zoë's $HOME"
    for path in [p for p in files() if p.parts[0] not in ("data", "reports", "bench", "tests")]:
        (clone / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, clone / path)
    (clone / ".venv").symlink_to(BIN.parent)
    for notebook in (clone / "nbs").rglob("*.ipynb"):
        if notebook.relative_to(clone / "nbs").as_posix() != "base/process.ipynb":
            notebook.unlink()
    there = (clone / "clipsynth/base/process.py").read_bytes()
    about = {"PYTHONPATH": clone, "JUPYTER_PATH": kernel(tmp_path / "jupyter", "/nowhere/python"), "LC_ALL": "C"}
    done = run("make", "-o", ".venv/.ready", "notebooks", "NAMES=base/process", cwd=clone, check=False, **about)
    assert "base/process: unchanged" in done.stdout, done.stdout[-1000:] + done.stderr[-3000:]
    assert (clone / "clipsynth/base/process.py").read_bytes() == there


def test_make_builds_the_environment_there(tmp_path: Path) -> None:
    clone = tmp_path / "a \"clone\" of Zoë's"
    (clone / ".ci").mkdir(parents=True)
    for name in ("Makefile", "settings.ini", "setup.py", "constraints.txt", ".ci/python_version.py"):
        shutil.copyfile(ROOT / name, clone / name)
    stand_in = clone / "stand-in"
    script = '#!/bin/sh\necho "$@" >> steps\nmkdir -p .venv/bin\ntest -x .venv/bin/python || cp $0 .venv/bin/python\n'
    stand_in.write_text(script, encoding="utf-8")
    stand_in.chmod(stand_in.stat().st_mode | stat.S_IXUSR)
    run("make", "test", "PYTHON=./stand-in", "ARGS=-k word", cwd=clone)
    steps = (clone / "steps").read_text(encoding="utf-8").splitlines()
    assert steps == [".ci/python_version.py", "-m pip install --disable-pip-version-check -c constraints.txt -e .[dev]",
                     ".ci/runtime.py", "-m pytest -n 2 --dist loadscope --no-loadscope-reorder -k word"]


def test_a_kernel_without_clipsynth_says_so(tmp_path: Path) -> None:
    code = "import sys; sys.modules['clipsynth'] = None; from ipykernel.kernelapp import launch_new_instance as l; l()"
    path = kernel(tmp_path / "jupyter", str(BIN / "python"), "-c", code)
    done = run(BIN / "papermill", ROOT / "nbs" / f"{RUN_NOTEBOOKS[-1]}.ipynb", tmp_path / "out.ipynb",
               "--no-progress-bar", cwd=tmp_path, check=False, JUPYTER_PATH=path)
    assert done.returncode == 1 and "no clipsynth in" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("name", RUN_NOTEBOOKS)
def test_run_notebooks_look_for_clipsynth_first(name: str) -> None:
    cells = json.loads((ROOT / f"nbs/{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "try:\n    import clipsynth\nexcept ModuleNotFoundError:" in first and sys.version_info


def test_a_wheel_sounds_outside_of_any_checkout(checkout: Path, tmp_path: Path) -> None:
    """It carries the default weights, and what scores a sound; what it does not carry is named, with what to do."""
    pip = (BIN / "python", "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, checkout)
    wheel, site = next(tmp_path.glob("*.whl")), tmp_path / "site"
    run(*pip, "install", "--no-deps", "--target", site, wheel)
    assert (site / "clipsynth/engine/browser/worker.js").is_file()
    clipsynth = (BIN / "python", "-c", "from clipsynth.base.process import entry; entry()")
    command = (*clipsynth, "synth", "cat meowing")
    about = {"cwd": tmp_path, "PYTHONPATH": site, "XDG_DATA_HOME": tmp_path / "data"}
    run(*command, "--dataset", "mini-vggsound", "-o", "cat.wav", **about)
    assert soundfile.read(tmp_path / "cat.wav")[0].std() > 0.01
    assert (site / "clipsynth/results/page/page.html").exists(), "the report's template"
    done = run(*command, "--dataset", "mini-vggsound", "--model", "clipsynth-text", check=False, **about)
    assert done.returncode == 2 and "train them with" in done.stderr and done.stderr.count("\n") == 1
    (tmp_path / "theirs").mkdir()
    for name in ("one.wav", "two.wav"):
        (tmp_path / "theirs" / name).write_bytes((tmp_path / "cat.wav").read_bytes())
    done = run(*clipsynth, "eval", "--samples", "theirs", "mini-vggsound", "--json", **about)
    assert json.loads(done.stdout)["sounds"] == 2 and not list((tmp_path / "data").rglob("*.mp4"))
