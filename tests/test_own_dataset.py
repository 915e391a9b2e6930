"""Somebody's own videos, from the README's section to a sound: odd names and labels, a damaged file, an own prompt."""
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from conftest import BIN, run

from clipsynth.base.config import WorldConfig
from clipsynth.base.process import UserError
from clipsynth.base.profiles import profile
from clipsynth.base.settings import configure
from clipsynth.base.tables import read_table
from clipsynth.base.weights import load_config
from clipsynth.data.store import Store
from clipsynth.engine.command import main
from clipsynth.engine.diffusion_task import label_embeddings
from clipsynth.engine.hub import from_pretrained, save_pretrained
from clipsynth.engine.synth import Synthesizer
from clipsynth.model.inputs import prompt_of
from clipsynth.results.trials import draw_trials, reference_windows, scored_rows
from clipsynth.worlds.music import render_world

WORLD = WorldConfig(instruments=("drum", "violin", "accordion"), videos=4, seconds=11.0, frame_rate=4, picture=64)
LABELS = {"drum": "door, slamming shut", "violin": "Tür & Glöckchen 鐘", "accordion": "-dash {query}"}
MINE = "my videos"
PROMPT = "the sound of {query}"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with videos as somebody may have them: a folder for each label, and names of every kind."""
    room = tmp_path_factory.mktemp("room")
    render_world(room / "world", WORLD, workers=2)
    listed = json.loads((room / "world/list.json").read_text())["videos"]
    names = ["take 1.mp4", "take 1.MP4", "été.mp4", "-2.mp4"]
    for instrument, label in LABELS.items():
        folder = room / "smoke" / MINE / "videos" / label
        folder.mkdir(parents=True)
        for video, name in zip(listed[instrument], names, strict=True):
            shutil.move(room / "world/videos" / f"{video}.mp4", folder / name)
    (folder / "broken.mkv").write_bytes(b"no video")
    (folder / "notes.txt").write_text("not a video either")
    return room


@pytest.fixture
def command(room: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    monkeypatch.setenv("CLIPSYNTH_DATA", str(room))
    monkeypatch.chdir(room)
    return lambda *words: main([*map(str, words), "--profile", "smoke", "--device", "cpu"])


def test_from_videos_to_a_sound(command: Callable[..., int], room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("train", "miniclip", "steps=2") == 0
    assert command("prep", MINE, "--prompt", PROMPT, "--workers", 1) == 0
    store = Store(room / "smoke" / MINE / "features")
    assert store.classes == sorted(LABELS.values()) and len(store) == 12
    assert list(store.manifest.status).count("corrupt") == 1
    assert store.about["settings"] == {"prompt": PROMPT}
    for model in ("metric-nets", "hifigan", "magnitude", "clipsynth", "clipsynth-text"):
        assert command("train", model, MINE, "steps=2", "batch=2") == 0
    capsys.readouterr()
    assert command("synth", "-dash", "--steps", 2) == 2 and capsys.readouterr().err.count("\n") == 1
    asked = ["synth", "--profile", "smoke", "--dataset", MINE, "--steps", "2", "-o", "dash.wav", "--", "-dash {query}"]
    assert main(asked) == 0
    assert command("synth", "door slamming", "--dataset", MINE, "--steps", 2, "-o", "door.wav") == 0
    assert command("synth", "door slamming", "--weights", MINE, "--steps", 2, "-o", "again.wav") == 0
    sound = soundfile.read(room / "door.wav")[0]
    assert sound.shape == (65_536,) and np.array_equal(sound, soundfile.read(room / "again.wav")[0])


def test_one_prompt_everywhere(command: Callable[..., int], room: Path, tmp_path: Path) -> None:
    """Training, synthesis and a shared folder put the dataset's own words around a query."""
    smoke = profile("smoke")
    weights = room / "smoke/weights" / MINE
    for name in ("clipsynth", "clipsynth-text"):
        assert load_config(weights / f"{name}.safetensors")["prompt"] == PROMPT
    asked = Synthesizer(MINE, "clipsynth-text", smoke, "cpu")
    sentences = [PROMPT.replace("{query}", label) for label in sorted(LABELS.values())]
    expected = asked.encoder.text(sentences)
    assert torch.equal(asked.embed_text(sorted(LABELS.values())), expected)
    store = Store(room / "smoke" / MINE / "features")
    learned = label_embeddings(store, smoke, MINE)
    assert torch.equal(learned, expected[torch.as_tensor(store.targets)])
    shared = save_pretrained(tmp_path / "shared", MINE, "clipsynth-text", "smoke")
    (room / "smoke" / MINE / "dataset.yaml").rename(room / "away.yaml")  # where others have no such dataset
    try:
        loaded = from_pretrained(shared, device="cpu")
        assert prompt_of(smoke, MINE) == "a photo of {query}"
        assert torch.equal(loaded.embed_text(["tuba"]), asked.embed_text(["tuba"]))
        other = Synthesizer(MINE, "clipsynth-text", configure(smoke, {"prompt": "{query}!"}), "cpu")
        assert torch.equal(other.embed_text(["tuba"]), asked.encoder.text(["tuba!"]))
    finally:
        (room / "away.yaml").rename(room / "smoke" / MINE / "dataset.yaml")


def test_a_prompt_must_hold_the_query(
        command: Callable[..., int], room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("prep", MINE, "--prompt", "a photo") == 2
    assert "{query}" in capsys.readouterr().err
    kept = room / "smoke" / MINE / "dataset.yaml"
    before = kept.read_bytes()
    kept.write_text("prompt: [")
    with pytest.raises(UserError, match="write one line"):
        prompt_of(profile("smoke"), MINE)
    kept.write_bytes(before)


def test_a_table_of_what_there_is(command: Callable[..., int], room: Path) -> None:
    """A model that was not trained reads `not run`, and a class that no training video has is left out."""
    weights, away = room / "smoke/weights" / MINE / "clipsynth.safetensors", room / "clipsynth.safetensors"
    weights.rename(away)
    try:
        words = ["-p", "profile", "smoke", "-p", "dataset", MINE, "-p", "recompute", "false", "--no-progress-bar"]
        run(BIN / "papermill", "nbs/04_eval.ipynb", room / "eval.ipynb", *words,
            CLIPSYNTH_DATA=room, CLIPSYNTH_REPORTS=room / "reports")
    finally:
        away.rename(weights)
    tables = room / "reports/smoke/tables"
    table = read_table(tables / f"scores-{MINE}.csv").set_index(["model", "asked with"])["FAD ours"]
    assert table["CLIPSynth", "text"] is table["CLIPSynth", "image"] is None
    assert None not in (table["CLIPSynth-Text", "text"], table["CLIPRetriever", "text"])
    assert "| CLIPSynth | yes | yes | image | text | 6.30 | not run |" in (tables / f"table1-{MINE}.md").read_text()


def test_a_class_without_training_videos_is_left_out() -> None:
    """As rot makes them: no metric network knows its class, and the rest is evaluated as if it were not there."""
    kept = pd.DataFrame({"label": ["a", "b", "c", "a", "b"], "split": ["train", "train", "test", "test", "test"]})
    rows = {split: np.flatnonzero(kept.split == split) for split in ("train", "test")}
    arrays = {"mel": np.zeros((5, 64, 156)), "embedding": np.zeros((5, 10, 8))}
    store = SimpleNamespace(kept=kept, rows=rows.get, folder="here", **arrays)
    assert scored_rows(store, "test").tolist() == [3, 4] and scored_rows(store, "train").tolist() == [0, 1]
    assert set(draw_trials(store, 50).label) == {"a", "b"} and set(reference_windows(store)[0]) == {3, 4}
