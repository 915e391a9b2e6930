"""The command `clipsynth synth`: a sound for a word, the same for the same seed, and one clear line for a mistake."""
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import BIN, ROOT, run

from clipsynth.command import main

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
    assert all(verb in done.stdout for verb in ("synth", "world", "prep", "train"))


def test_import_is_light() -> None:
    """What only some work needs is imported when that work begins."""
    modules = [path.stem for path in (ROOT / "clipsynth").glob("[!_]*.py")]
    asked = f"import sys, {', '.join(f'clipsynth.{name}' for name in modules)}; print(*sys.modules)"
    loaded = set(run(BIN / "python", "-c", asked).stdout.split())
    assert not loaded & set(HEAVY)
