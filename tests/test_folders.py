"""`clipsynth eval`: careless input gets the right number or one clear line, and a run that dies goes on."""
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from conftest import BIN, ROOT, run, start

from clipsynth.base.profiles import MINI
from clipsynth.data import untrusted
from clipsynth.engine.command import main
from clipsynth.results.bench import Bench
from clipsynth.results.distances import frechet_distance
from clipsynth.results.folders import measure_files, own_groups
from clipsynth.results.test_set import class_names, manifest, reference

SECONDS = 4.2
Say = Callable[..., tuple[int, str, str]]


def noise(seed: int, rate: int = 16_000, seconds: float = SECONDS, channels: int = 1) -> np.ndarray:
    """A tone in noise for each seed, the same whatever the rate."""
    rng, time = np.random.default_rng(seed), np.arange(round(16_000 * seconds)) / 16_000
    sound = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 3_000) * time) + rng.normal(0, 0.02, len(time))
    return np.stack([soxr.resample(sound, 16_000, rate)] * channels, 1)


def write(folder: Path, count: int = 6, rate: int = 16_000, kind: str = "wav", subtype: str | None = None,
          channels: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(count):
        soundfile.write(folder / f"{seed}.{kind}", noise(seed, rate, channels=channels), rate, subtype)
    return folder


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Say:
    """The command in this process: its status, and what it said in both streams."""
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)

    def command(*words: object) -> tuple[int, str, str]:
        status = main(["eval", *map(str, words), "--device", "cpu"])
        return status, *capsys.readouterr()

    return command


def line(done: tuple[int, str, str]) -> dict[str, Any]:
    """What a command said as JSON."""
    status, said, errors = done
    assert status == 0 and said.count("\n") == 1, (said, errors)
    return json.loads(said)


# What cannot be scored

def one(folder: Path) -> None:
    write(folder, 1)


def text(folder: Path) -> None:
    (write(folder) / "3.wav").write_text("a sound, honestly")


def not_a_number(folder: Path) -> None:
    sound = noise(3)
    sound[100] = np.nan
    soundfile.write(write(folder) / "3.wav", sound, 16_000, "FLOAT")


def scale(folder: Path) -> None:
    soundfile.write(write(folder) / "3.wav", 20_000 * noise(3), 16_000, "FLOAT")


def short(folder: Path) -> None:
    soundfile.write(write(folder) / "3.wav", noise(3, seconds=0.2), 16_000)


def no_samples(folder: Path) -> None:
    soundfile.write(write(folder) / "3.wav", np.zeros((0, 1)), 16_000)


def half_done(folder: Path) -> None:
    (write(folder) / "3.wav").rename(folder / "3.wav.part")


def other_kind(folder: Path) -> None:
    (write(folder) / "3.wav").rename(folder / "3.m4a")


def loop(folder: Path) -> None:
    (write(folder) / "again").symlink_to(folder)


def dead_link(folder: Path) -> None:
    (write(folder) / "9.wav").symlink_to(folder / "gone.wav")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: None, "set is not there"),
    "a file": (lambda folder: folder.write_text(""), "set is a file: give the folder"),
    "empty": (lambda folder: folder.mkdir(), "set holds no sounds"),
    "one sound": (one, "holds one sound"),
    "text": (text, "cannot read set/3.wav as sound"),
    "not a number": (not_a_number, "set/3.wav: some values are not finite"),
    "another scale": (scale, "set/3.wav: the largest value is"),
    "too short": (short, "set/3.wav is 0.200 s long"),
    "no samples": (no_samples, "set/3.wav holds no samples"),
    "half downloaded": (half_done, "set/3.wav.part is no wav, flac, ogg or mp3 file"),
    "another kind": (other_kind, "set/3.m4a is no wav, flac, ogg or mp3 file"),
    "a link to itself": (loop, "1 link in it leads elsewhere and is not followed (set/again)"),
    "a link to nowhere": (dead_link, "1 link in it leads elsewhere and is not followed (set/9.wav)"),
}


@pytest.mark.parametrize(("make", "words"), FOLDERS.values(), ids=FOLDERS.keys())
def test_a_folder_that_cannot_be_scored_gets_one_line(
        make: Callable[[Path], object], words: str, say: Say, tmp_path: Path) -> None:
    make(tmp_path / "set")
    status, said, errors = say("--samples", "set")
    assert (status, said, errors.count("\n")) == (2, "", 1) and words in errors, errors


@pytest.mark.parametrize("place", ["set", "set/sub"])
def test_no_right_to_look(place: str, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have every right, so the refusal is the system's as it would be."""
    write(tmp_path / "set" / "sub")
    look = os.scandir

    def refused(folder: Any) -> Any:
        if str(folder) == place:
            raise PermissionError(13, "Permission denied", folder)
        return look(folder)

    monkeypatch.setattr(untrusted.os, "scandir", refused)
    status, said, errors = say("--samples", "set")
    assert (status, said, errors.count("\n")) == (2, "", 1)
    assert f"cannot look into {place} (Permission denied)" in errors


def names_of(count: int = 6) -> list[str]:
    return [f"{seed}.wav" for seed in range(count)]


TABLES = {
    "no such table": (None, "cannot read the list asked.csv"),
    "empty": ("", "no column 'file'"),
    "no label": ("file,class\n", "no column 'label' among 'file, class'"),
    "unknown class": ("file,label\n" + "".join(f"{name},violine\n" for name in names_of()),
                      "line 2: no class 'violine': did you mean 'violin'?"),
    "no such sound": ("file,label\n7.wav,violin\n", "line 2: no sound '7.wav': did you mean"),
    "twice": ("file,label\n0.wav,violin\n0.wav,violin\n", "line 3: '0.wav' is listed before"),
    "one left out": ("file,label\n" + "".join(f"{name},violin\n" for name in names_of(5)),
                     "no line for 1 of 6 sounds, such as 5.wav"),
    "unknown video": ("file,label,video\n" + "".join(f"{name},violin,abc\n" for name in names_of()),
                      "0.wav is said to answer to video 'abc' of class 'violin'"),
    "no video": ("file,label,video\n0.wav,violin,\n", "line 2: no video"),
    "a cell too many": ("file,label\n0.wav,violin,1\n", "line 2: 3 columns"),
    "latin": (b"file,label\n0.wav,fl\xf6te\n", "line 2: this is not UTF-8"),
}


@pytest.mark.parametrize(("table", "words"), TABLES.values(), ids=TABLES.keys())
def test_a_table_that_does_not_fit_gets_one_line(
        table: str | bytes | None, words: str, say: Say, tmp_path: Path) -> None:
    write(tmp_path / "set")
    if table is not None:
        (tmp_path / "asked.csv").write_bytes(table.encode() if isinstance(table, str) else table)
    status, said, errors = say("--samples", "set", "--queries", "asked.csv")
    assert (status, said, errors.count("\n")) == (2, "", 1) and words in errors, errors


OPTIONS = {
    "no samples": ([], "--samples"),
    "another file": (["-o", "row.doc"], "ends in .csv"),
    "nowhere": (["-o", "set/0.wav/row.csv"], "cannot write"),
    "fewer than none": (["--workers", "-1"], "--workers -1"),
    "unknown dataset": (["nobody"], "nobody"),
    "unknown option": (["--query", "asked.csv"], "did you mean"),
}


@pytest.mark.parametrize(("options", "words"), OPTIONS.values(), ids=OPTIONS.keys())
def test_options_that_cannot_be(options: list[str], words: str, say: Say, tmp_path: Path) -> None:
    write(tmp_path / "set")
    status, said, errors = say(*(["--samples", "set"] if options else []), *options)
    assert (status, said, errors.count("\n")) == (2, "", 1) and words in errors, errors


# The right number

FORMS: dict[str, tuple[dict[str, Any], float]] = {  # what is written, and how far the distances may move
    "16 bits": ({}, 0.02), "24 bits": ({"subtype": "PCM_24"}, 0.02), "float": ({"subtype": "FLOAT"}, 0.02),
    "stereo at 48 kHz": ({"rate": 48_000, "channels": 2}, 0.02),
    "flac at 44.1 kHz": ({"rate": 44_100, "kind": "flac"}, 0.02),
    "ogg": ({"kind": "ogg"}, 0.2), "mp3": ({"kind": "mp3"}, 0.2)}


def test_every_form_of_a_sound_gives_its_number(say: Say, tmp_path: Path) -> None:
    rows = {}
    for name, (form, _) in FORMS.items():
        write(tmp_path / name, **form)
        rows[name] = line(say("--samples", name, "--json"))
    plain = rows["16 bits"]
    for name, (form, most) in FORMS.items():
        for metric in ("fad", "fid"):
            assert rows[name][metric]["value"] == pytest.approx(plain[metric]["value"], rel=most), (name, metric)
        converted = form.get("rate", 16_000) != 16_000 or form.get("channels", 1) > 1
        assert rows[name]["converted"] == 6 * converted and rows[name]["cut"] == 6


def test_what_is_not_in_a_sound_is_not_made_up(say: Say, tmp_path: Path) -> None:
    """8 kHz has no upper half: the number is that of the same sound at 16 kHz without an upper half."""
    low = write(tmp_path / "low", rate=8_000)
    (tmp_path / "half").mkdir()
    for path in low.iterdir():
        sound = soxr.resample(soundfile.read(path)[0], 8_000, 16_000)
        soundfile.write(tmp_path / "half" / path.name, sound, 16_000, "FLOAT")
    one, two = (line(say("--samples", name, "--json")) for name in ("low", "half"))
    assert (one["converted"], two["converted"]) == (6, 0)
    assert one["fad"]["value"] == pytest.approx(two["fad"]["value"], rel=0.02)
    assert one["fid"]["value"] == pytest.approx(two["fid"]["value"], rel=0.02)


def test_order_and_folders_do_not_matter(say: Say, tmp_path: Path) -> None:
    first = write(tmp_path / "first", 7)
    for seed in reversed(range(7)):
        (tmp_path / "other" / str(seed)).mkdir(parents=True)
        (tmp_path / "other" / str(seed) / "sound.wav").write_bytes((first / f"{seed}.wav").read_bytes())
    labels = ["violin", "cello"] * 4
    places = [f"{seed},{label}" for seed, label in zip(range(7), labels, strict=False)]
    tables = {"first": [place.replace(",", ".wav,") for place in places],
              "other": [place.replace(",", "/sound.wav,") for place in reversed(places)]}
    found = []
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,label", *lines]))
        found.append(line(say("--samples", name, "--queries", f"{name}.csv", "--json", "--name", "x")))
    assert found[0] == found[1] and found[0]["audio_accuracy"] is not None


def test_few_sounds_and_silence_have_a_number(say: Say, tmp_path: Path) -> None:
    """Fewer sounds than the embedding has dimensions, and sounds that are all alike: exact, above zero."""
    bench = Bench(MINI, "mini-music")
    for name, loud in (("few", 1.0), ("still", 0.0)):
        for seed in range(3):
            write(tmp_path / name, 0)
            soundfile.write(tmp_path / name / f"{seed}.wav", loud * noise(seed), 16_000)
        done = say("--samples", name, "--json")
        row = line(done)
        assert row["still"] == 3 * (loud == 0) and row["sounds"] == 3
        told = "clipsynth: 3 of 3 sounds hold one value throughout, as silence does, and count as they are: "
        assert done[2] == ("" if loud else f"{told}0.wav, 1.wav, 2.wav\n"), "one notice for all of them"
        found = measure_files(sorted((tmp_path / name).iterdir()), bench.metric_nets)
        real = reference(bench)
        exact = frechet_distance(found["audio"].astype(float), real["audio"].astype(float))
        assert row["fad"]["value"] == pytest.approx(exact, rel=1e-5) and exact > 1


def test_padding_is_asked_for_and_said(say: Say, tmp_path: Path) -> None:
    short(tmp_path / "set")
    status, said, _ = say("--samples", "set", "--pad")
    assert status == 0 and "1 of them is too short, with silence in place of the rest" in said
    assert line(say("--samples", "set", "--pad", "--json"))["padded"] == 1


def test_the_row_is_that_of_table_1(say: Say, tmp_path: Path) -> None:
    """With videos the intervals are paired; without queries there is no accuracy; a table is written beside."""
    bench = Bench(MINI, "mini-vggsound")
    real, names, table = reference(bench), class_names(bench), manifest(bench)
    rows = real["row"][:12:2]
    labels = [names[number] for number in real["label"][:12:2]]
    lines = [f'{seed}.wav,"{labels[seed]}",{table["video"][row]}' for seed, row in enumerate(rows)]
    (tmp_path / "asked.csv").write_text("\n".join(["file,label,video", *lines]))
    write(tmp_path / "set")
    status, said, _ = say("--samples", "set", "mini-vggsound", "--queries", "asked.csv", "-o", "out/row.csv")
    assert status == 0 and "| set | mini-vggsound |" in said and "counted by test video" in said
    header, values = (tmp_path / "out/row.csv").read_text().splitlines()
    assert header.startswith("model,dataset,FAD,FAD low,FAD high,FAD debiased,FAD perfect,FAD n,FID,")
    assert values.startswith("set,mini-vggsound,") and "nan" not in values
    status, said, _ = say("--samples", "set")
    assert status == 0 and said.count("not run") == 2 and "needs --queries" in said


def test_large_sets_go_in_groups() -> None:
    label = np.repeat([0, 1, 2], [50, 30, 4_000])
    groups = own_groups(label, most=60)
    assert len(np.unique(groups)) == 60 and len(np.unique(np.stack([groups, label]), axis=1).T) == 60
    assert np.bincount(groups[label == 2]).max() <= 200
    assert np.array_equal(own_groups(label[:60], most=60), np.arange(60))


# A run that dies, and several that share

SCRIPT = """
import os, signal, sys
from clipsynth.engine.command import main
from clipsynth.results import folders
folders.BLOCK = 8
read, whole = [], folders.load_window
def counted(path, pad):
    read.append(path)
    if len(read) == int(os.environ.get("DIE_AT", 0)):
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(path, pad)
folders.load_window = counted
if __name__ == "__main__":
    words = ["eval", "--samples", sys.argv[1], "--json", "--pad", "--device", "cpu", *sys.argv[2:]]
    status = main(words)
    print("read", len(read), file=sys.stderr)
    sys.exit(status)
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty tiny sounds, in eight blocks."""
    folder = tmp_path_factory.mktemp("many")
    for seed in range(60):
        soundfile.write(folder / f"{seed:02}.wav", noise(seed, seconds=0.1), 16_000)
    return folder


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "evaluate.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module")
def alone(many: Path, script: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, dict[str, bytes]]:
    """What one process says that is left alone, and the bytes that it keeps."""
    data = tmp_path_factory.mktemp("alone")
    done = run(BIN / "python", script, many, "--workers", "0", PYTHONPATH=ROOT, CLIPSYNTH_DATA=data)
    return done.stdout, done.stderr, parts(data)


def parts(data: Path) -> dict[str, bytes]:
    """What is kept below the folder of evaluations."""
    return {path.name: path.read_bytes() for path in sorted(data.rglob("evaluations/**/*")) if path.is_file()}


def test_a_killed_run_goes_on_and_workers_change_nothing(
        many: Path, script: Path, alone: tuple[str, str, dict[str, bytes]], tmp_path: Path) -> None:
    """Killed in its fourth block, it has three, makes five, and ends with the bytes of a run that was left alone."""
    call = partial(run, BIN / "python", script, many, PYTHONPATH=ROOT, CLIPSYNTH_DATA=tmp_path)
    killed = call("--workers", "0", DIE_AT=30, check=False)
    assert killed.returncode == -signal.SIGKILL and killed.stdout == "" and len(parts(tmp_path)) == 3
    resumed = call("--workers", "2")
    said, errors, kept = alone
    assert resumed.stdout == said and json.loads(said)["sounds"] == 60
    assert (errors, resumed.stderr) == ("read 60\n", "read 0\n"), "two workers have read them"
    assert parts(tmp_path) == kept and len(kept) == 1


def test_a_launchers_processes_share_the_blocks(
        many: Path, script: Path, alone: tuple[str, str, dict[str, bytes]], tmp_path: Path) -> None:
    """The first tells the result, or the one fault that any of them found."""
    (tmp_path / "bad").mkdir()
    for path in many.iterdir():
        (tmp_path / "bad" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "bad" / "09.wav").write_text("no sound")  # in the block of the second process
    for folder, status in ((many, 0), (tmp_path / "bad", 2)):
        (first, said, errors), (second, nothing, more) = launch(script, folder, tmp_path / "shared")
        assert (first, second) == (status, status), errors + more
        assert nothing == "" and said == (alone[0] if status == 0 else "")
        if status:
            assert "09.wav as sound" in errors and errors.count("clipsynth: ") == 1 and "clipsynth: " not in more
        else:
            assert ("read 32" in errors, "read 28" in more) == (True, True)
    assert parts(tmp_path / "shared").items() >= alone[2].items()


def launch(script: Path, folder: Path, data: Path) -> list[tuple[int, str, str]]:
    """Two processes as a launcher starts them, on this machine alone."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    about: dict[str, object] = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                                "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": ROOT, "CLIPSYNTH_DATA": data}
    if sys.platform == "linux":
        about["GLOO_SOCKET_IFNAME"] = "lo"
    both = [start(BIN / "python", script, folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **about, RANK=rank,
                  LOCAL_RANK=rank) for rank in range(2)]
    said = [process.communicate(timeout=600) for process in both]
    return [(process.returncode, *text) for process, text in zip(both, said, strict=True)]
