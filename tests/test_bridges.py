"""Bridges from words to pictures: the committed files, the verb that fits them, and what a model may use."""
import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from clipsynth.base.process import UserError
from clipsynth.base.profiles import MINI
from clipsynth.base.weights import load_config
from clipsynth.engine import bridging
from clipsynth.engine.command import main
from clipsynth.engine.synth import Synthesizer
from clipsynth.model.bridges import BRIDGES
from clipsynth.model.fitted_bridges import fit, load_bridges
from clipsynth.model.query import QueryEncoder

WORLDS = ("mini-music", "mini-vggsound")


def committed(dataset: str, name: str = "bridges") -> Path:
    return ROOT / "data/weights" / dataset / f"{name}.safetensors"


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer("mini-music", device="cpu", vocoder="griffin-lim")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a feature store of nothing but names and embeddings."""
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    monkeypatch.setattr(bridging, "fit", partial(fit, steps=20))
    place, labels, rng = tmp_path / "mine/features", np.repeat(["drum", "rain"], 6), np.random.default_rng(0)
    place.mkdir(parents=True)
    clips = [f"{label}{i}" for i, label in enumerate(labels)]
    pd.DataFrame({"clip": clips, "label": labels, "split": "train", "start": 0.0, "video": clips, "status": "kept",
                  "content": ""}).to_parquet(place / "manifest.parquet")
    (place / "store.json").write_text(json.dumps({"chunks": 12, "recipe": "made up"}))
    (place / "embedding.txt").write_text(name := QueryEncoder("mini").digest)
    made = rng.normal(size=(12, 3, 64)) + 2
    np.save(place / f"embedding-{name}.npy", (made / np.linalg.norm(made, axis=-1, keepdims=True)).astype(np.float16))
    return tmp_path


@pytest.mark.parametrize("dataset", WORLDS)
def test_committed_file(dataset: str) -> None:
    """It is small and of the model's own pictures; every bridge ends on the sphere, and nearer to pictures."""
    fitted, config = load_bridges(committed(dataset))
    model = load_config(committed(dataset, "clipsynth"))
    assert committed(dataset).stat().st_size <= 300 * 1024
    assert config["inputs"]["store"] == model["store"] and config["inputs"]["prompt"] == model["prompt"]
    text = QueryEncoder("mini").text(["a photo of a violin", "rain", "something small"]).numpy()
    mean = np.array(model["image_centroid"])
    for kind in ("prompt", "caption"):
        bridges = fitted.bridges(kind)
        assert tuple(bridges) == BRIDGES
        np.testing.assert_allclose(bridges["mean-shift"].parameters["image_mean"], mean, atol=1e-5)
        for name, bridge in bridges.items():
            moved = bridge(text)
            np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-5)
            np.testing.assert_allclose(bridge(text[1:2])[0], moved[1], atol=1e-4)  # alone as among others
            near = [(some @ fitted.arrays["memory"].T).max(1) for some in (text, moved)]
            assert (near[1] > near[0] + 0.1).all() == (name != "none"), name


def test_verb_fits_once(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captions = mine / "captions.txt"
    captions.write_text("a drum\nrain falls\nnothing\n")
    assert main(["bridges", "mine"]) == 0
    path = Path(capsys.readouterr().out.strip())
    assert path == mine / "weights/mine/bridges.safetensors"
    first, config = load_bridges(path)
    path.touch()
    touched = path.stat().st_mtime_ns
    assert main(["bridges", "mine"]) == 0 and path.stat().st_mtime_ns == touched
    assert main(["bridges", "mine", "--captions", str(captions)]) == 0
    assert set(load_bridges(path)[0].options) == {"prompt", "caption"} != set(first.options)
    assert "prior" not in first.bridges(), "it needs captions of the clips"
    assert main(["bridges", "mine"]) == 0
    again, told = load_bridges(path)
    assert (told, again.options) == (config, first.options) and set(again.arrays) == set(first.arrays)
    for name, array in first.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)


@pytest.mark.parametrize("words, told", [
    (["mine", "--captions", "none.txt"], "cannot read the captions"), (["yours"], "features is not there"),
    (["mine", "--bridge", "magic"], "magic"), (["mine", "--clip", "mini:none"], "no MiniCLIP at none")])
def test_verb_says_what_is_wrong(mine: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bridges", *words]) == 2
    said = capsys.readouterr()
    assert told in said.err and said.err.count("\n") == 1 and said.out == ""
    assert not (mine / "weights").exists()


def test_every_bridge_answers_a_query(synthesizer: Synthesizer) -> None:
    found = {name: synthesizer.embed_text(["violin", "tuba"], name).numpy() for name in BRIDGES}
    assert all(np.allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-4) for moved in found.values())
    asked = Synthesizer("mini-music", device="cpu", vocoder="griffin-lim", bridge="transport")
    np.testing.assert_array_equal(asked.embed_text(["violin", "tuba"]), found["transport"])
    pairs = [(a, b) for a in BRIDGES for b in BRIDGES if a < b and np.allclose(found[a], found[b], atol=1e-3)]
    assert pairs == [], "each is a bridge of its own"


def test_bare_words_are_captions(synthesizer: Synthesizer) -> None:
    profile = replace(MINI, prompt="{query}")
    bare = Synthesizer("mini-music", "clipsynth", profile, "cpu", vocoder="griffin-lim")
    text = synthesizer.encoder.text(["someone playing the violin"]).numpy()
    captions = load_bridges(committed("mini-music"))[0].bridges("caption")
    for name in ("mean-shift", "transport"):
        moved = bare.embed_text(["someone playing the violin"], name).numpy()
        np.testing.assert_allclose(moved, captions[name](text), atol=1e-6)
    other = Synthesizer("mini-music", "clipsynth", replace(MINI, prompt="hear {query}"), "cpu", vocoder="griffin-lim")
    assert other.embed_text(["violin"], "wiener").shape == (1, 64)


def test_another_prompt_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    other = Synthesizer("mini-music", "clipsynth", replace(MINI, prompt="hear {query}"), "cpu", vocoder="griffin-lim")
    other.embed_text(["violin"], "wiener")
    told = capsys.readouterr().err.strip()
    assert told.count("\n") == 0 and "the prompt is 'hear {query}'" in told


def test_what_cannot_be_bridged(tmp_path: Path, synthesizer: Synthesizer) -> None:
    with pytest.raises(UserError, match="no bridge 'magic': choose one of none, mean-shift"):
        synthesizer.embed_text(["violin"], "magic")
    for model in ("clipsynth-text", "clipsynth-hybrid"):
        with pytest.raises(UserError, match="trained on words too.*take bridge='none'"):
            Synthesizer("mini-music", model, device="cpu", vocoder="griffin-lim", bridge="transport")

    def asked(file: Path) -> Synthesizer:
        paths = {"clipsynth": committed("mini-music", "clipsynth"), "bridges": file}
        return Synthesizer("mini-music", paths=paths, device="cpu", vocoder="griffin-lim", bridge="transport")

    with pytest.raises(UserError, match="fit them with `clipsynth bridges mini-music`"):
        asked(tmp_path / "none.safetensors")
    shutil.copyfile(committed("mini-vggsound"), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="trained on other pictures .* `clipsynth bridges mini-music`"):
        asked(tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="holds 'clipsynth', no bridges"):
        asked(committed("mini-music", "clipsynth"))
    (tmp_path / "bad.safetensors").write_bytes(committed("mini-music").read_bytes()[:500])
    with pytest.raises(UserError, match="is no clipsynth weights file"):
        asked(tmp_path / "bad.safetensors")
