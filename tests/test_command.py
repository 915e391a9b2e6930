"""The command: a sound for a word, every setting by its name in every form, and one clear line for a mistake."""
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import BIN, ROOT, RUN_NOTEBOOKS, run
from papermill import inspect_notebook

from clipsynth.base.config import Profile
from clipsynth.base.process import UserError
from clipsynth.base.settings import names, run_parameters
from clipsynth.engine.command import main, understood

HEAVY = ("librosa", "open_clip", "matplotlib", "pandas", "seaborn", "IPython", "torchvision", "sklearn", "av")


def synth(*words: object, cwd: Path) -> bytes:
    run(BIN / "clipsynth", "synth", *words, "-o", "out.wav", cwd=cwd)
    return (cwd / "out.wav").read_bytes()


def test_a_word_becomes_a_sound(tmp_path: Path) -> None:
    run(BIN / "clipsynth", "synth", "violin", "-o", "violin.wav", cwd=tmp_path)
    about = soundfile.info(tmp_path / "violin.wav")
    assert (about.samplerate, about.channels, about.frames) == (16_000, 1, 65_536)
    sound = soundfile.read(tmp_path / "violin.wav")[0]
    assert 1e-3 < np.sqrt((sound**2).mean()) and np.abs(sound).max() <= 1


def test_seeds_repeat(tmp_path: Path) -> None:
    first = synth("tuba", "--seed", 1, "--steps", 4, cwd=tmp_path)
    assert synth("tuba", "--seed", 1, "--steps", 4, cwd=tmp_path) == first
    assert synth("tuba", "--seed", 2, "--steps", 4, cwd=tmp_path) != first


def test_a_picture_becomes_a_sound(tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (90, 70), "tan").save(tmp_path / "photo.png")
    assert synth("--image", "photo.png", "--steps", 2, cwd=tmp_path)


def test_every_dial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Several seeds, a picture of the mel, facts as JSON; an old sound made again, and one that goes on."""
    monkeypatch.chdir(tmp_path)

    def told(*words: object) -> list[dict[str, object]]:
        assert main(["synth", *map(str, words), "--steps", "3", "--json"]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    many = told("violin", "--seed", "0,7", "--negative", "tuba", "--show", "-o", "v.wav")
    assert [(one["file"], one["seed"], one["seconds"]) for one in many] == [
        ("v-0.wav", 0, 4.096), ("v-7.wav", 7, 4.096)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["v-0.png", "v-0.wav", "v-7.png", "v-7.wav"]
    both = told("violin and tuba", "-o", "both.wav")[0]
    assert both["combine"] != "words" and -45 < float(str(both["rms_db"])) < -8
    assert told("violin and tuba", "--combine", "words", "-o", "one.wav")[0]["combine"] == "words"
    assert told("violin", "--blend", "tuba:0.3", "-o", "between.wav")[0]["seconds"] == 4.096
    assert told("tuba", "--style", "v-0.wav", "--strength", 0.5, "-o", "again.wav")[0]["seconds"] == 4.096
    assert told("tuba", "--continue", "v-0.wav", "--seconds", 6, "-o", "long.wav")[0]["seconds"] == 6.0
    old, new = (soundfile.read(tmp_path / name)[0] for name in ("v-0.wav", "long.wav"))
    assert np.allclose(old[:60_000], new[:60_000], atol=1e-4) and np.sqrt((new[65_536:] ** 2).mean()) > 1e-3


MISTAKES = {
    "empty query": ["", "-o", "out.wav"],
    "no query": ["-o", "out.wav"],
    "no image": ["--image", "nowhere.png", "-o", "out.wav"],
    "image that is none": ["--image", "words.png", "-o", "out.wav"],
    "output below a file": ["violin", "-o", "words.png/out.wav"],
    "output that is a folder": ["violin", "-o", "folder.wav"],
    "output of an unknown kind": ["violin", "-o", "out.doc"],
    "unknown weights": ["violin", "-o", "out.wav", "--weights", "nowhere"],
    "weights outside": ["violin", "-o", "out.wav", "--weights", "../.."],
    "unknown model": ["violin", "-o", "out.wav", "--model", "nothing"],
    "unknown profile": ["violin", "-o", "out.wav", "--profile", "huge"],
    "unknown device": ["violin", "-o", "out.wav", "--device", "abacus"],
    "no steps": ["violin", "-o", "out.wav", "--steps", "0"],
    "an unknown combination": ["violin and tuba", "-o", "out.wav", "--combine", "magic"],
    "a combination that the model cannot": ["violin and tuba", "-o", "out.wav", "--combine", "guided",
                                            "--model", "clipsynth"],
    "a blend without a number": ["violin", "-o", "out.wav", "--blend", "cello:much"],
    "a negative query of nothing": ["violin", "-o", "out.wav", "--negative", " "],
    "a style that is no sound": ["violin", "-o", "out.wav", "--style", "words.png"],
    "a sound to go on from that is not there": ["violin", "-o", "out.wav", "--continue", "nowhere.wav"],
    "seeds backwards": ["violin", "-o", "out.wav", "--seed", "5-2"],
    "guidance that does not lead away": ["violin", "-o", "out.wav", "--negative", "tuba", "--guidance", "0.5"],
    "too many steps": ["violin", "-o", "out.wav", "--steps", "1000000"],
}


@pytest.mark.parametrize("words", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_gets_one_line(
        words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.png").write_text("no picture")
    (tmp_path / "folder.wav").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["synth", *words]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and said.err.startswith("clipsynth: "), said.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.wav", "words.png"], "nothing is left behind"


def test_a_mistake_is_told_to_the_shell(tmp_path: Path) -> None:
    done = run(BIN / "clipsynth", "synth", *MISTAKES["unknown weights"], cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr


def test_help_names_the_verbs() -> None:
    done = run(BIN / "clipsynth", "--help")
    assert all(verb in done.stdout for verb in ("synth", "world", "download", "prep", "train", "eval"))


def test_import_is_light() -> None:
    """What only some work needs is imported when that work begins."""
    paths = [path.relative_to(ROOT).with_suffix("") for path in (ROOT / "clipsynth").rglob("[!_]*.py")]
    modules = [".".join(path.parts) for path in paths]
    asked = f"import sys, {', '.join(modules)}; print(*sys.modules)"
    loaded = set(run(BIN / "python", "-c", asked).stdout.split())
    assert not loaded & set(HEAVY)


def test_help_comes_without_torch_and_names_every_setting() -> None:
    asked = ("import sys; from clipsynth.engine.command import main\n"
             "try: main(['prep', '-h'])\nfinally: print(*sys.modules)")
    done = run(BIN / "python", "-c", asked)
    said, modules = done.stdout.strip().rsplit("\n", 1)
    assert "torch" not in modules.split()
    missing = [name for name in names() if f"--{name.replace('_', '-')} " not in said]
    assert missing == []


FORMS: dict[str, dict[str, object]] = {  # by name, and what has to come of it
    "train.steps": {"3": 3, "0": None, "-1": None, "three": None, "": None},
    "train.learning_rate": {"1e-4": 1e-4, "nan": None, "inf": None},
    "train.betas": {"0.8,0.99": (0.8, 0.99), "[0.8, 0.99]": (0.8, 0.99), "0.8": None},
    "train.compile": {"true": True, "no": False, "0": False, "perhaps": None},
    "unet.conditioning": {"film": "film", "add": None},
    "world.instruments": {"drum,violin": ("drum", "violin"), "None": None.__class__},
    "everyday.labels": {"dog barking,child speech, kid speaking": ("dog barking", "child speech, kid speaking")},
    "hifigan.resblock_dilations": {"[[1, 2], [3]]": ((1, 2), (3,)), "[[1, 2": None},
    "prompt": {"the sound of {query}": "the sound of {query}", "a=b {query}": "a=b {query}", "a sound": None},
    "clip": {"ViT-B-32-quickgelu:/a b/weights.pt": "ViT-B-32-quickgelu:/a b/weights.pt"},
}


def value_of(profile: Profile, name: str) -> object:
    group, _, last = name.rpartition(".")
    if group == "train":
        return getattr(profile.train_of("mini-music", "clipsynth"), last)
    return getattr(getattr(profile, group) if group else profile, last)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_says_the_same(name: str, tmp_path: Path) -> None:
    """An option, a word, a YAML file and papermill's text set the same value, or refuse it alike."""
    file = tmp_path / "my.yaml"
    for text, value in FORMS[name].items():
        file.write_text(f"{name}: {json.dumps(text)}\n", encoding="utf-8")
        forms: list[Callable[[], Profile]] = [
            lambda text=text: understood("prep", [f"--{name.replace('_', '-')}={text}"])[1],
            lambda text=text: understood("prep", [f"--{name}", text])[1],
            lambda text=text: understood("train", ["clipsynth", f"{name}={text}"])[1],
            lambda: understood("prep", ["--config", str(file)])[1],
            lambda text=text: run_parameters("mini", shlex.quote(f"{name}={text}"))[0],
            lambda: run_parameters("mini", shlex.quote(str(file)))[0],
        ]
        for form in forms:
            if value is None:
                with pytest.raises(UserError) as wrong:
                    form()
                assert "\n" not in str(wrong.value)
            else:
                assert value_of(form(), name) == (None if value is type(None) else value)


UNKNOWN = {"unet.chanels": "unet.channels", "learning-rate": "train.learning_rate", "clpi": "clip",
           "data.testshare": "data.test_share", "train.hifigam.steps": "train.steps",
           "unets.mini-vggsound.channels": "", "name": "", "settings": ""}


@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_name_gets_the_nearest(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["prep", f"--{name}", "3"], ["prep", f"{name}=3"]):
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and UNKNOWN[name] in said.err and name in said.err


def test_the_one_that_says_more_wins(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("train: {steps: 5, hifigan: {steps: 6}}\nunet.channels: 16\n")
    words = ["hifigan", "--config", str(tmp_path / "my.yaml")]
    profile = understood("train", [*words, "--train.mel-net.steps=9", "batch=2"])[1]
    steps = {model: profile.train_of("mini-music", model).steps for model in ("clipsynth", "hifigan", "mel-net")}
    assert steps == {"clipsynth": 5, "hifigan": 6, "mel-net": 9}
    assert profile.unet.channels == 16
    assert {recipe.batch for recipe in profile.train.values()} == {2}
    assert understood("train", [*words, "steps=7"])[1].train["hifigan"].steps == 7


@pytest.mark.parametrize("notebook", RUN_NOTEBOOKS)
def test_run_notebooks_read_their_parameters_in_one_place(notebook: str) -> None:
    """Papermill sees every parameter, `settings` among them, and text such as `false` is read before it is used."""
    known = inspect_notebook(str(ROOT / f"nbs/{notebook}.ipynb"))
    cells = json.loads((ROOT / f"nbs/{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert list(known)[0] == "profile" and known["settings"]["default"] == '""'
    reads = [text for text in code if re.search(r"run_parameters\(\s*profile,\s*settings", text)]
    flags = [name for name, about in known.items() if about["inferred_type_name"] == "bool"]
    assert len(reads) == 1
    assert all(f"{name}=(bool, {name})" in reads[0] for name in flags if (notebook, name) != ("03_train", "recompute"))
