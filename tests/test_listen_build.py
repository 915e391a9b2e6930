"""A listening test of trained systems: built by the command at smoke size, as a lab would."""
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import BIN, SmokeRun, run

from clipsynth.listen.sounds import PEAK, loudness, true_peak
from clipsynth.listen.test_folder import read_key, read_test

pytest.importorskip("pyloudnorm", reason="no loudness: pip install clipsynth[listen]")


def test_trained_systems_become_a_test(smoke_run: SmokeRun, tmp_path: Path) -> None:
    """Sounds of 8.192 s from what was trained, equally loud; what was not trained is left out with a line."""
    folder = tmp_path / "listening"
    done = run(BIN / "clipsynth", "listen", "build", folder, "--profile", "smoke", "--datasets", "mini-music",
               "--systems", "clipsynth", "clipsynth-memory", "clipsynth-hybrid", "retriever",
               "--listeners", 3, "--pairs", 3, CLIPSYNTH_DATA=smoke_run.data)
    trained = (smoke_run.data / "smoke/weights/mini-music/clipsynth-hybrid.safetensors").exists()
    assert ("left out: clipsynth-hybrid" in done.stderr) == (not trained), done.stderr
    test = read_test(folder)
    key = read_key(test)
    systems = {about["system"] for about in key["sounds"].values()}
    wanted = {"clipsynth", "clipsynth-memory", "retriever"} | ({"clipsynth-hybrid"} if trained else set())
    assert systems - {"real", "white-noise"} == wanted and {"real", "white-noise"} <= systems
    assert {about["dataset"] for about in key["sounds"].values()} == {"mini-music"}
    levels, sounds = [], {}
    for name, about in key["sounds"].items():
        sound, rate = soundfile.read(test.sound(name))
        assert (rate, len(sound)) == (16_000, 131_072) and true_peak(sound, rate) < PEAK + 0.1
        levels.append(loudness(sound, rate))
        sounds[about["system"], about["query"], name] = sound
    assert np.ptp(levels) < 0.2 and abs(np.mean(levels) - key["loudness_lufs"]) < 0.1
    public = (folder / "design.json").read_text(encoding="utf-8")
    assert not any(word in public for word in ("retriever", "memory", "hybrid", key["salt"]))
    asked = {trial["query"] for slot in test.design["slots"] for trial in slot if "query" in trial}
    assert asked == {key["trials"][id]["query"].replace("_", " ") for id in test.trials}


def test_a_build_is_the_same_again_but_for_its_secret(smoke_run: SmokeRun, tmp_path: Path) -> None:
    """The same seed gives the same sounds; another secret gives other names and another order."""
    keys = []
    for name in ("one", "two"):
        run(BIN / "clipsynth", "listen", "build", tmp_path / name, "--profile", "smoke", "--datasets", "mini-music",
            "--systems", "clipsynth", "retriever", "--listeners", 2, "--pairs", 2, CLIPSYNTH_DATA=smoke_run.data)
        keys.append(json.loads((tmp_path / f"{name}.key.json").read_text(encoding="utf-8")))
    names = [{(s["system"], s["query"]): name for name, s in key["sounds"].items()} for key in keys]
    assert keys[0]["salt"] != keys[1]["salt"] and not {*names[0].values()} & {*names[1].values()}
    common = {*names[0]} & {*names[1]}
    for about in common:
        one, two = (soundfile.read(tmp_path / part / "sounds" / f"{known[about]}.wav")[0]
                    for part, known in zip(("one", "two"), names, strict=True))
        scale = (one @ two) / (one @ one)
        assert np.abs(one * scale - two).max() < 1e-3, "but for the level that all share"
