"""Killed at any moment, on any number of workers, on a Dask cluster that loses a worker: the store is the same."""
import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import BIN, LIMIT, run, start, wait_until

from clipsynth.base.config import WorldConfig
from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import UserError, threads
from clipsynth.base.profiles import MINI
from clipsynth.data import shards
from clipsynth.data.assemble import assemble
from clipsynth.data.embedding import embed
from clipsynth.data.lists import read_list
from clipsynth.data.prep import decode, prepare, prepare_dataset, prepare_part, reasons
from clipsynth.data.shards import Job, content_of, make_shard, make_shards, pending, plan_shards
from clipsynth.data.store import Store
from clipsynth.data.workers import in_cluster, in_workers
from clipsynth.model.query import QueryEncoder
from clipsynth.worlds.music import render_world

WORLD = WorldConfig(instruments=("drum", "violin"), videos=5, seconds=21.0, frame_rate=4, picture=64)


def contents(store: Path) -> dict[str, str]:
    """Every file of a store but its shards, by name: what it holds, byte for byte."""
    files = [path for path in sorted(store.iterdir()) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten videos and their list, in MUSIC's form, in a folder `mine`; one of the videos is damaged."""
    folder = tmp_path_factory.mktemp("world") / "mine"
    render_world(folder, WORLD, workers=2)
    victim = sorted((folder / "videos").glob("*.mp4"))[3]
    victim.write_bytes(victim.read_bytes()[: victim.stat().st_size // 2])
    return folder


def fresh_copy(world: Path, folder: Path) -> Path:
    """The world again, without its store."""
    shutil.copytree(world, folder / "mine", ignore=shutil.ignore_patterns("features"))
    return folder / "mine"


@pytest.fixture(scope="module")
def unbroken(world: Path) -> dict[str, str]:
    """What the command makes of it when nobody disturbs it, on one worker."""
    run(BIN / "clipsynth", "prep", "mine", "--workers", 1, CLIPSYNTH_DATA=world.parent)
    return contents(world / "features")


def stage(store: Path) -> int:
    """How far a prep has come: its shards, and a few more for each later step."""
    later = (".mel.part.npy", "mel.npy", "manifest.parquet", "store.json", "embedding-*.part", "embedding-*.npy")
    return len(list(store.glob("shards/*/*.npz"))) + sum(any(store.glob(name)) for name in later)


def test_ten_kills(world: Path, unbroken: dict[str, str], tmp_path: Path) -> None:
    """Kill -9 at ten random moments, of the parent alone or with its workers; each time the next run goes on."""
    folder, rng = fresh_copy(world, tmp_path), numpy_rng("test", "kills")
    prep, store, met = [BIN / "clipsynth", "prep", "mine", "--workers", 2], folder / "features", 0
    for index in range(100):
        if met == 10:
            break
        if (store / "embedding.txt").exists():  # it came to its end before the last kill: once more
            shutil.rmtree(store)
        target = rng.integers(stage(store), 17)
        process = start(*prep, CLIPSYNTH_DATA=tmp_path)
        wait_until(lambda target=target: stage(store) >= target, process, pause=0.002)
        time.sleep(rng.uniform(0, 0.05))
        met += process.poll() is None
        with suppress(ProcessLookupError):
            (os.killpg if index % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
    assert met == 10, "a kill that comes too late is done again"
    run(*prep, CLIPSYNTH_DATA=tmp_path)
    assert contents(store) == unbroken
    assert not list(folder.rglob("*.part*")), "nothing half-written is left"


def test_any_number_of_workers(world: Path, unbroken: dict[str, str], tmp_path: Path) -> None:
    for workers in (0, 3):
        places = world / "list.json", world / "videos", tmp_path / str(workers)
        with threads(1):  # as the command had: on two, CLIP's sums differ in their last bits
            prepare(*places, QueryEncoder("mini"), MINI.data, workers=workers)
        assert contents(places[2]) == unbroken


class OfCompany:
    """A picture encoder whose numbers depend on how many pictures come at once, as a processor's last bits may."""

    image_size, width, digest = 64, 3, "company"

    def image(self, pictures: np.ndarray) -> np.ndarray:
        return np.full((len(pictures), self.width), 1 + len(pictures), np.float32)


def test_an_embedding_does_not_depend_on_its_company(world: Path, unbroken: dict[str, str], tmp_path: Path) -> None:
    """What was left to do when a run was killed changes no bit of what it does then."""
    store = Store(shutil.copytree(world / "features", tmp_path / "features"))
    first = np.array(embed(store, OfCompany(), batch=4).embedding)
    path = store.folder / f"embedding-{OfCompany.digest}.npy"
    part = np.load(path)
    part[1:] = np.nan
    np.save(path, part)
    path.rename(path.with_suffix(".part"))
    again = np.array(embed(store, OfCompany(), batch=3).embedding)
    assert (again == first).all() and contents(world / "features") == unbroken


@pytest.mark.parametrize("bytes_written", [0, 10, 200])
def test_a_kill_while_embeddings_are_begun(world: Path, bytes_written: int, tmp_path: Path) -> None:
    """A file that ends in its header or in its numbers is begun again; nothing reads zeros as embeddings."""
    store = Store(shutil.copytree(world / "features", tmp_path / "features"))
    first = np.array(embed(store, OfCompany()).embedding)
    path = store.folder / f"embedding-{OfCompany.digest}.npy"
    torn = path.read_bytes()[:bytes_written]
    path.unlink()
    path.with_suffix(".part").write_bytes(torn)
    path.with_suffix(".new").write_bytes(torn)
    assert (np.array(embed(store, OfCompany()).embedding) == first).all()


def test_parts_make_the_whole(world: Path, unbroken: dict[str, str], tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fresh_copy(world, tmp_path)
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    made = [prepare_part("mine", f"{number}/3", "mini", workers=0) for number in (1, 2, 3)]
    assert sum(made) == 10 and min(made) > 0
    videos = read_list(folder / "list.json")
    jobs = plan_shards(videos, folder / "videos", folder / "features", 64)
    assert pending(jobs) == []
    run(BIN / "clipsynth", "prep", "mine", CLIPSYNTH_DATA=tmp_path)
    assert contents(folder / "features") == unbroken
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0"):
        with pytest.raises(UserError, match="3/8"):
            prepare_part("mine", wrong, "mini", workers=0)


def test_what_is_finished_is_not_done_again(world: Path, unbroken: dict[str, str], tmp_path: Path) -> None:
    """Renamed folders and new dates mean nothing; another content does; a deleted video stays in the store."""
    folder = fresh_copy(world, tmp_path)
    places = folder / "list.json", folder / "videos", folder / "features", 64
    seen: list[str] = []

    def told(name: str, status: str) -> None:
        seen.append(name)

    decode(*places, workers=0, callback=told)
    assert len(seen) == 10
    first, second, third = sorted((folder / "videos").glob("*.mp4"))[:3]
    (folder / "videos/deep").mkdir()
    os.utime(first.rename(folder / "videos/deep" / first.name), (1, 1))
    second.unlink()
    seen.clear()
    decode(*places, workers=0, callback=told)
    assert seen == []
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 1
    third.write_bytes(content)
    store = decode(*places, workers=0, callback=told)
    assert seen == [third.stem]
    assert {first.stem, second.stem} <= set(store.kept.video)


def test_a_damaged_shard_is_made_again(world: Path, tmp_path: Path) -> None:
    folder = fresh_copy(world, tmp_path)
    places = folder / "list.json", folder / "videos", folder / "features", 64
    before = contents(decode(*places, workers=0).folder)
    shard = next((folder / "features/shards").rglob("*.npz"))
    shard.write_bytes(shard.read_bytes()[:-2_000])
    (folder / "features/store.json").unlink()
    decode(*places, workers=0)
    assert contents(folder / "features") == before


def test_a_full_disk_is_said_before_anything_is_written(
        world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore
    with pytest.raises(UserError, match="CLIPSYNTH_DATA"):
        decode(world / "list.json", world / "videos", tmp_path / "store", 64, workers=0)
    assert not list((tmp_path / "store").glob("*.npy"))


@contextmanager
def cluster(folder: Path, workers: int = 2) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A real scheduler and real workers that speak TCP over the loopback interface."""
    about = folder / "scheduler.json"
    quiet = ["--no-dashboard"]
    scheduler = BIN / "dask", "scheduler", "--host", "127.0.0.1", "--port", 0, "--scheduler-file", about
    processes = [start(*scheduler, *quiet)]
    try:
        wait_until(about.exists, processes[0])
        for number in range(workers):
            processes.append(start(
                BIN / "dask", "worker", "--scheduler-file", about, "--nthreads", 1, "--host", "127.0.0.1", "--name",
                f"worker-{number}", "--local-directory", folder / f"worker-{number}", *quiet))
        yield json.loads(about.read_text())["address"], processes[1:]
    finally:
        for process in processes:
            with_group(process)


def with_group(process: subprocess.Popen) -> None:
    """Kill a process and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_a_cluster_that_loses_a_worker(world: Path, unbroken: dict[str, str], tmp_path: Path) -> None:
    folder = fresh_copy(world, tmp_path)
    with cluster(tmp_path) as (address, workers):
        prep = start(BIN / "clipsynth", "prep", "mine", "--cluster", address, CLIPSYNTH_DATA=tmp_path)
        wait_until(lambda: len(list(folder.glob("features/shards/*/*.npz"))) >= 2, prep)
        assert prep.poll() is None, "it ended before a worker could be killed"
        with_group(workers[0])
        assert prep.wait(timeout=LIMIT) == 0
    assert contents(folder / "features") == unbroken


def test_a_cluster_outlives_what_kills_its_children(tmp_path: Path) -> None:
    with cluster(tmp_path, workers=1) as (address, _):
        done = dict(in_cluster(os._exit, [3], address, lambda job: LIMIT))
        slow = dict(in_cluster(time.sleep, [0.0, 600.0], address, lambda job: 2.0 if job else LIMIT))
    assert done == {3: "crashed"} and slow == {0.0: None, 600.0: "slow"}


def test_no_scheduler_is_one_line() -> None:
    with pytest.raises(UserError, match="dask scheduler") as error:
        list(in_cluster(abs, [1], "nonsense://127.0.0.1:9", lambda job: 1.0))
    assert "\n" not in str(error.value)


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from clipsynth.data.workers import in_workers\nprint(list(in_workers(abs, [1, 2], 1)))\n")
    done = run(sys.executable, script, cwd=tmp_path, check=False)
    assert done.returncode and "__main__" in done.stderr


def test_workers_go_with_their_parent(tmp_path: Path) -> None:
    """After kill -9 of the parent no worker lingers."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, time\nfrom clipsynth.data.workers import in_workers\n"
        "if __name__ == '__main__':\n"
        "    for job, result in in_workers(time.sleep, [0.0, 500.0, 500.0], 2):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n")
    process = start(sys.executable, script)
    process.wait(timeout=LIMIT)
    assert wait_until(lambda: not group(process.pid), pause=0.2)


def group(number: int) -> list[int]:
    """The living processes of a process group."""
    import psutil

    alive = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == number and process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process.pid)
        except (ProcessLookupError, psutil.Error):
            pass
    return alive


class MeanColour:
    """A stand-in for CLIP that counts the pictures it has seen."""
    image_size, width, digest = 64, 3, "mean-colour"

    def __init__(self) -> None:
        self.seen = 0

    def image(self, pictures: np.ndarray) -> np.ndarray:
        self.seen += len(pictures)
        return pictures.mean((1, 2)) / 255


def touched(store: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in store.iterdir() if path.is_file()}


def test_any_file_name_is_prepared_once(world: Path, tmp_path: Path) -> None:
    """Spaces, equal names in two folders, bytes that are no UTF-8: each is prepared, and a second prep does nothing."""
    videos, first, second = tmp_path / "mine/videos", MeanColour(), MeanColour()
    names = [b"my cat (1).mp4", b"dog/001.mp4", b"cat/001.mp4", b"caf\xe9.mp4", "h\u00fcndchen/\u2028.mp4".encode()]
    for name, video in zip(names, sorted((world / "videos").glob("*.mp4"))[4:], strict=False):
        path = Path(os.fsdecode(os.fsencode(videos) + b"/" + name))
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copy(video, path)
        except OSError:  # macOS has no such names
            shutil.copy(video, path.with_name("other.mp4"))
    places = videos, videos, tmp_path / "mine/features"
    store = prepare(*places, first, workers=0)
    assert len(store) == 10 == first.seen / 10 and store.manifest.status.isin(["kept", "short"]).all()
    assert any("caf" in source for source in store.manifest.source)
    before = touched(store.folder)
    prepare(*places, second, workers=0)
    assert touched(store.folder) == before and not second.seen


def test_a_longer_list_embeds_what_is_new(world: Path, tmp_path: Path) -> None:
    folder, listed = fresh_copy(world, tmp_path), json.loads((world / "list.json").read_text())["videos"]
    shorter = {label: ids[1:4] for label, ids in listed.items()}
    (folder / "shorter.json").write_text(json.dumps({"videos": shorter}))
    places, seen = (folder / "videos", folder / "features"), []
    for name in ("shorter.json", "list.json", "shorter.json"):
        seen.append(MeanColour())
        store = prepare(folder / name, *places, seen[-1], workers=0)
        whole = store.frames.mean((2, 3)) / 255
        assert np.array_equal(store.embedding, whole.astype(np.float16)), "each row is its own picture's"
        seen[-1].chunks = len(store)  # type: ignore[attr-defined]
    first, longer, last = seen
    assert first.seen == 10 * first.chunks and last.seen == 0 < longer.seen  # type: ignore[attr-defined]
    assert longer.seen == 10 * (longer.chunks - first.chunks)  # type: ignore[attr-defined]
    assert not list(folder.rglob("*.part"))


def test_a_file_that_cannot_be_opened_costs_its_row(
        world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, fingerprint = fresh_copy(world, tmp_path), content_of
    locked, gone = sorted((folder / "videos").glob("*.mp4"))[:2]

    def refuse(path: str) -> str:
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", path)
        return fingerprint(path)

    monkeypatch.setattr(shards, "content_of", refuse)  # the superuser may open every file
    gone.unlink()
    places = folder / "list.json", folder / "videos", folder / "features", 64
    store = decode(*places, workers=0)
    status = store.manifest.groupby("video").status.first()
    assert (status[locked.stem], status[gone.stem]) == ("unreadable", "missing")
    assert store.kept.video.nunique() == 7 and "unreadable" in set(reasons(store.manifest).status)
    monkeypatch.undo()
    assert locked.stem in set(decode(*places, workers=0).kept.video), "asked again as soon as it can be read"


def test_a_file_that_goes_away_meanwhile_is_missing(world: Path, tmp_path: Path) -> None:
    folder = fresh_copy(world, tmp_path)
    videos = read_list(folder / "list.json")
    jobs = plan_shards(videos, folder / "videos", folder / "features", 64)
    job = next(job for job in jobs if job.path and "kept" == make_shard(replace(job, folder=str(tmp_path))))
    moved = Path(job.path).rename(tmp_path / "elsewhere.mp4")
    make_shards(pending(jobs), workers=0)
    store = assemble(videos, jobs, folder / "features")
    assert set(store.manifest.status[store.manifest.video == job.stem]) == {"missing"}
    assert job.stem not in store.contents
    moved.rename(job.path)
    store = decode(folder / "list.json", folder / "videos", folder / "features", 64, workers=0)
    assert job.stem in set(store.kept.video)


def fail(word: str) -> None:
    raise TimeoutError(f"it was {word}")


def test_a_mistake_of_ours_ends_the_run(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bug, a module that is not there, even a TimeoutError of its own is no fault of the file."""
    with pytest.raises(TimeoutError, match="it was late"):
        list(in_workers(fail, ["late"], workers=1, limit=lambda job: 500.0))
    video = next((world / "videos").glob("*.mp4"))
    job = Job(video.stem, str(video), str(world / "none"), "x", 64)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "av", None)
        with pytest.raises(ImportError):
            make_shard(job)
    for place in ("frames.clip_picture", "soundtrack.to_int16"):
        with monkeypatch.context() as patch:
            patch.setattr(f"clipsynth.data.{place}", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                make_shard(job)
    assert not (world / "none").exists()


def read_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder behave as on a disk that is mounted for reading, for the superuser, too."""
    import builtins
    import io

    def guarded(function: Any, writes: Any) -> Any:
        def call(path: Any, *words: Any, **named: Any) -> Any:
            inside = isinstance(path, (str, bytes, Path)) and os.fsdecode(path).startswith(str(folder))
            if inside and writes(*words, **named):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))
            return function(path, *words, **named)
        return call

    def mode(mode: str = "r", *_: Any, **__: Any) -> bool:
        return bool(set(mode) & set("wax+"))

    for module in (builtins, io):
        monkeypatch.setattr(module, "open", guarded(open, mode))
    for name in ("replace", "rename", "unlink", "remove", "rmdir", "utime", "truncate"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name), lambda *_, **__: True))
    monkeypatch.setattr(os, "mkdir", guarded(os.mkdir, lambda *_, **__: True))
    monkeypatch.setattr(os, "open", guarded(os.open, lambda flags, *_, **__: flags & (os.O_WRONLY | os.O_RDWR)))
    inside, access = str(folder), os.access
    monkeypatch.setattr(os, "access", lambda path, mode, **named:
                        access(path, mode, **named) and not (mode & os.W_OK and str(path).startswith(inside)))


def test_a_complete_store_is_read_from_a_read_only_disk(
        world: Path, unbroken: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world, tmp_path / "mine")
    (tmp_path / "mine/features/embedding.txt").write_text("another CLIP's\n")
    (tmp_path / "empty").mkdir()
    shutil.copy(world / "list.json", tmp_path / "empty/list.json")
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    with monkeypatch.context() as patch:
        read_only(tmp_path, patch)
        store = prepare_dataset("mine")
        assert len(store) == len(store.embedding) > 0 and store.mel.any() and store.audio.any()
        with pytest.raises(UserError, match="cannot write .*empty.*check the folder"):
            prepare_dataset("empty")
    assert not (tmp_path / "mine/.lock").exists()


def test_the_folder_of_videos_may_be_deleted(
        world: Path, unbroken: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(world, tmp_path / "mine", ignore=shutil.ignore_patterns("videos"))
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    prepare_dataset("mine")
    assert contents(tmp_path / "mine/features") == unbroken
    shutil.rmtree(tmp_path / "mine/features")
    with pytest.raises(UserError, match="no folder of videos"):
        prepare_dataset("mine")


@pytest.mark.parametrize("name", ["mel.npy", "thumbnail.npy", "manifest.parquet", "embedding-*.npy"])
@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_the_advice_for_a_damaged_store_helps(
        name: str, damage: str, world: Path, unbroken: dict[str, str], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a reader is told to run prep, prep mends it."""
    folder, encoder = tmp_path / "mine", MeanColour()
    deleted = () if name == "manifest.parquet" else ("*.mp4",)  # it remembers the videos that were deleted
    shutil.copytree(world, folder, ignore=shutil.ignore_patterns(*deleted))
    (folder / "features/embedding.txt").unlink()
    for old in (folder / "features").glob("embedding-*"):
        old.unlink()
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    places = folder / "list.json", folder / "videos", folder / "features"
    whole = contents(prepare(*places, encoder, workers=0).folder)
    path = next((folder / "features").glob(name))
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="run `clipsynth prep mine --profile smoke`") as error:
        store = Store(folder / "features", profile="smoke")
        for part in ("manifest", "mel", "thumbnail", "embedding"):
            getattr(store, part)
    assert "\n" not in str(error.value)
    assert contents(prepare(*places, encoder, workers=0).folder) == whole


def test_advice_names_the_command_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    advice = {"mini-music": "prep mini-music --profile mini", "music": "prep music --profile paper",
              "smoke/mini-music": "prep mini-music --profile smoke", "mine": "prep mine`, with the --profile"}
    for place, command in advice.items():
        with pytest.raises(UserError) as error:
            Store(tmp_path / place / "features")
        assert f"run `clipsynth {command}" in str(error.value)
    with pytest.raises(UserError, match="prepare"):
        Store(tmp_path.parent / "elsewhere/features")
