"""Bad videos are skipped, counted and listed; Ctrl-C in any long work loses nothing that was finished."""
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import BIN, LIMIT, SmokeRun, run, start, wait_until

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.profiles import SMOKE
from clipsynth.data.store import Store
from clipsynth.engine.command import main
from clipsynth.worlds.film import write_video
from clipsynth.worlds.music import render_world
from clipsynth.worlds.performance import play
from clipsynth.worlds.world import Traits


def pictures(seconds: int) -> list[np.ndarray]:
    return [np.full((64, 64, 3), 40 + i % 100, np.uint8) for i in range(4 * seconds)]


def video(path: Path, seconds: int, loud: float = 1.0) -> None:
    sound = loud * play("violin", Traits(), seconds, numpy_rng("test"))
    write_video(path, iter(pictures(seconds)), sound, frame_rate=4)


def video_without_sound(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=4)
        stream.width = stream.height = 64
        for image in pictures(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def statuses(store: Path) -> dict[str, Counter]:
    rows = Store(store).manifest
    return {name: Counter(rows.status[rows.video == name]) for name in sorted(set(rows.video))}


def test_bad_videos_are_skipped_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "videos").mkdir(parents=True)
    video(folder / "videos/good.mp4", 25)
    video(folder / "videos/brief.mp4", 4)
    video(folder / "videos/silent.mp4", 12, loud=0.0)
    video_without_sound(folder / "videos/mute.mp4")
    (folder / "videos/corrupt.mp4").write_bytes(np.random.default_rng(0).bytes(5_000))
    (folder / "videos/empty.mp4").touch()
    named = ["brief", "corrupt", "empty", "gone", "good", "mute", "silent"]
    (folder / "list.json").write_text(json.dumps({"videos": {"violin": named}}))

    done = run(BIN / "clipsynth", "prep", "mine", CLIPSYNTH_DATA=tmp_path)
    found = statuses(folder / "features")
    assert found["good"]["kept"] == 2
    reasons = {"brief": "short", "corrupt": "corrupt", "empty": "corrupt", "gone": "missing", "mute": "no-audio",
               "silent": "silent"}
    assert {name: list(found[name])[0] for name in reasons} == reasons
    for name, reason in reasons.items():
        assert reason in done.stdout and name in done.stdout, "the reasons are printed, with examples"
    assert len(Store(folder / "features")) == 2


@pytest.mark.parametrize("text", ["", "{", "[]", '{"videos": 3}', '{"videos": {"violin": ["../up"]}}'])
def test_a_bad_list_gets_one_line(
        text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine/videos").mkdir(parents=True)
    (tmp_path / "mine/list.json").write_text(text)
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    assert main(["prep", "mine"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "list.json" in said


def interrupt(ready: Callable[[], bool], *command: object, **changes: object) -> None:
    """Start a command, press Ctrl-C as soon as it has done some of its work, and expect it to stop without a fuss."""
    process = start(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **changes)
    wait_until(ready, process)
    assert process.poll() is None, f"it ended before it could be interrupted:\n{process.communicate()[1]}"
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT)
    assert process.returncode == 130, said
    last = said.splitlines()[-1] if said else ""  # before it there may be a notice, of bfloat16 that is not to be had
    assert last.startswith("clipsynth: ") and "again" in last and "Traceback" not in said, said


def test_ctrl_c_reaches_a_command_of_tests_in_the_background() -> None:
    """A shell's background process ignores Ctrl-C, and what it starts inherits that."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        about = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
        said = start(sys.executable, "-c", about, stdout=subprocess.PIPE).communicate(timeout=LIMIT)[0]
        assert said == "True\n" and signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def finished(folder: Path, pattern: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob(pattern) if not path.name.startswith(".")}


def test_prep_goes_on_after_an_interruption(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    render_world(folder, SMOKE.world, workers=2)
    shards = folder / "features/shards"
    prep = [BIN / "clipsynth", "prep", "mine", "--workers", 1]
    interrupt(lambda: bool(finished(shards, "*/*.npz")), *prep, CLIPSYNTH_DATA=tmp_path)
    before = finished(shards, "*/*.npz")
    assert 0 < len(before) < 9
    run(*prep, CLIPSYNTH_DATA=tmp_path)
    after = finished(shards, "*/*.npz")
    assert len(after) == 9 and {name: after[name] for name in before} == before, "what was finished is not done again"
    store = Store(folder / "features")
    assert store.kept["clip"].is_unique and store.manifest.video.nunique() == 9
    assert np.isfinite(store.embedding.astype(np.float32)).all()


def test_rendering_goes_on_after_an_interruption(tmp_path: Path) -> None:
    videos = tmp_path / "smoke/mini-music/videos"
    world = [BIN / "clipsynth", "world", "mini-music", "--profile", "smoke", "--workers", 1]
    interrupt(lambda: bool(finished(videos, "*.mp4")), *world, CLIPSYNTH_DATA=tmp_path)
    before = finished(videos, "*.mp4")
    assert 0 < len(before) < 9
    run(*world, CLIPSYNTH_DATA=tmp_path)
    after = finished(videos, "*.mp4")
    assert len(after) == 9 and {name: after[name] for name in before} == before


def test_training_goes_on_after_an_interruption(smoke_run: SmokeRun, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    weights = {}
    train = [BIN / "clipsynth", "train", "clipsynth", "mini-music", "steps=60", "log_every=1", "--profile", "smoke"]
    for name in ("straight", "interrupted"):
        data = tmp_path / name
        for part in ("mini-music", "weights"):
            shutil.copytree(smoke_run.data / "smoke" / part, data / "smoke" / part)
        published = data / "smoke/weights/mini-music/clipsynth.safetensors"
        published.unlink()
        log = data / "smoke/runs/mini-music/clipsynth/log.csv"
        if name == "interrupted":
            interrupt(lambda log=log: log.exists() and log.read_text().count("\n") > 5, *train, CLIPSYNTH_DATA=data)
            assert not published.exists(), "weights are published when training is finished"
        run(*train, CLIPSYNTH_DATA=data)
        rows = log.read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == list(range(1, 61)), "no step is lost or done twice"
        weights[name] = load_file(published)
    straight, interrupted = weights.values()
    assert all(np.array_equal(straight[key], interrupted[key]) for key in straight), "the same bits either way"
