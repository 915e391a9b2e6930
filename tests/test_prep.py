"""Killed at any moment, on any number of workers, on a Dask cluster that loses a worker: the store is the same."""
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
from pathlib import Path

import numpy as np
import pytest
from conftest import BIN, LIMIT, run, start, wait_until

from clipsynth import data
from clipsynth.core import UserError, WorldConfig, numpy_rng
from clipsynth.lists import read_list
from clipsynth.worlds import render_world

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
    shutil.copytree(world, folder / "mine", ignore=shutil.ignore_patterns("features", ".lock"))
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
    from clipsynth.query import QueryEncoder

    for workers in (0, 3):
        places = world / "list.json", world / "videos", tmp_path / str(workers)
        data.prepare(*places, QueryEncoder("mini"), workers=workers)
        assert contents(places[2]) == unbroken


def test_parts_make_the_whole(world: Path, unbroken: dict[str, str], tmp_path: Path,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fresh_copy(world, tmp_path)
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    made = [data.prepare_part("mine", f"{number}/3", "mini", workers=0) for number in (1, 2, 3)]
    assert sum(made) == 10 and min(made) > 0
    videos = read_list(folder / "list.json")
    jobs = data.plan(videos, folder / "videos", folder / "features", 64)
    assert data.pending(jobs) == []
    run(BIN / "clipsynth", "prep", "mine", CLIPSYNTH_DATA=tmp_path)
    assert contents(folder / "features") == unbroken
    for wrong in ("0/3", "4/3", "3", "a/b", "1/0"):
        with pytest.raises(UserError, match="3/8"):
            data.prepare_part("mine", wrong, "mini", workers=0)


def test_what_is_finished_is_not_done_again(world: Path, unbroken: dict[str, str], tmp_path: Path) -> None:
    """Renamed folders and new dates mean nothing; another content does; a deleted video stays in the store."""
    folder = fresh_copy(world, tmp_path)
    places = folder / "list.json", folder / "videos", folder / "features", 64
    seen: list[str] = []

    def told(name: str, status: str) -> None:
        seen.append(name)

    data.decode(*places, workers=0, callback=told)
    assert len(seen) == 10
    first, second, third = sorted((folder / "videos").glob("*.mp4"))[:3]
    (folder / "videos/deep").mkdir()
    os.utime(first.rename(folder / "videos/deep" / first.name), (1, 1))
    second.unlink()
    seen.clear()
    data.decode(*places, workers=0, callback=told)
    assert seen == []
    content = bytearray(third.read_bytes())
    content[len(content) // 2] ^= 1
    third.write_bytes(content)
    store = data.decode(*places, workers=0, callback=told)
    assert seen == [third.stem]
    assert {first.stem, second.stem} <= set(store.kept.video)


def test_a_damaged_shard_is_made_again(world: Path, tmp_path: Path) -> None:
    folder = fresh_copy(world, tmp_path)
    places = folder / "list.json", folder / "videos", folder / "features", 64
    before = contents(data.decode(*places, workers=0).folder)
    shard = next((folder / "features/shards").rglob("*.npz"))
    shard.write_bytes(shard.read_bytes()[:-2_000])
    (folder / "features/store.json").unlink()
    data.decode(*places, workers=0)
    assert contents(folder / "features") == before


def test_a_full_disk_is_said_before_anything_is_written(
        world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 10, 0))  # type: ignore
    with pytest.raises(UserError, match="CLIPSYNTH_DATA"):
        data.decode(world / "list.json", world / "videos", tmp_path / "store", 64, workers=0)
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
        done = dict(data.in_cluster(os._exit, [3], address, lambda job: LIMIT))
        slow = dict(data.in_cluster(time.sleep, [0.0, 600.0], address, lambda job: 2.0 if job else LIMIT))
    assert done == {3: "crashed"} and slow == {0.0: None, 600.0: "slow"}


def test_no_scheduler_is_one_line() -> None:
    with pytest.raises(UserError, match="dask scheduler") as error:
        list(data.in_cluster(abs, [1], "nonsense://127.0.0.1:9", lambda job: 1.0))
    assert "\n" not in str(error.value)


def test_a_script_without_a_guard_is_told(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("from clipsynth.data import in_workers\nprint(list(in_workers(abs, [1, 2], 1)))\n")
    done = run(sys.executable, script, cwd=tmp_path, check=False)
    assert done.returncode and "__main__" in done.stderr


def test_workers_go_with_their_parent(tmp_path: Path) -> None:
    """After kill -9 of the parent no worker lingers."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal, time\nfrom clipsynth.data import in_workers\n"
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


def test_store_reads_are_slices(tmp_path: Path, world: Path) -> None:
    """A crop is what slicing by hand gives."""
    store = data.decode(world / "list.json", world / "videos", tmp_path, 64, workers=0)
    np.save(tmp_path / "embedding-x.npy", np.zeros((len(store), 10, 4), np.float16))
    (tmp_path / "embedding.txt").write_text("x")
    mel, embedding = data.Store(tmp_path).crop(np.array([2, 0]), np.array([7, 92]))
    assert np.array_equal(mel, np.stack([store.mel[2, :, 7:71], store.mel[0, :, 92:156]]).astype(np.float32))
    assert embedding.shape == (2, 4)
