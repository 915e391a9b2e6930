"""The window shows what the store holds; copies across the split are found, and strangers are left alone."""
import json
from functools import cache
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import UserError
from clipsynth.base.report import Report, provenance
from clipsynth.data.browse import Browser, browse, page_classes, store_page
from clipsynth.data.duplicates import find_copies, on_both_sides
from clipsynth.data.store import Store
from clipsynth.data.video import decode_video
from clipsynth.model.audio import log_mel, to_int16
from clipsynth.worlds.film import write_video

RATE, SECONDS = 16_000, 10


@cache
def tune(seed: int, seconds: float = 2 * SECONDS) -> np.ndarray:
    """Notes of one timbre at random times, over a little noise; (samples,) in [-1, 1]."""
    rng, sound = numpy_rng("tune", seed), np.zeros(round(seconds * RATE), np.float32)
    sound += rng.normal(0, 2e-3, len(sound)).astype(np.float32)
    tilt, beat, at = rng.uniform(0.3, 0.9), rng.uniform(0.15, 0.5), 0.0
    while at < seconds - 0.1:
        length, pitch = rng.uniform(0.1, 0.8), 110 * 2 ** (rng.integers(0, 36) / 12)
        time = np.arange(int(min(length, seconds - at) * RATE)) / RATE
        note = sum(tilt**k * np.sin(2 * np.pi * pitch * k * time) for k in range(1, 9) if pitch * k < 7_500)
        start = round(at * RATE)
        sound[start : start + len(time)] += (0.1 * note * np.exp(-3 * time)).astype(np.float32)[: len(sound) - start]
        at += beat * rng.integers(1, 5)
    return sound


@cache
def look(seed: int, width: int = 16, count: int = 2 * SECONDS) -> np.ndarray:
    """Unit embeddings of a scene that changes a little; (frames, width)."""
    rng = numpy_rng("look", seed)
    walk = rng.normal(size=width) + np.cumsum(0.15 * rng.normal(size=(count, width)), 0) + 3 * np.eye(width)[0]
    return walk / np.linalg.norm(walk, axis=1, keepdims=True)


@cache
def mel_of(sound: bytes) -> np.ndarray:
    return log_mel(torch.from_numpy(np.frombuffer(sound, np.int16) / np.float32(32_767))).numpy()


def make_store(folder: Path, videos: list[tuple[str, str, str, np.ndarray, np.ndarray]], embeddings: bool = True,
               extra: list[dict] | None = None) -> Store:
    """A feature store of (id, label, split, sound, embeddings), cut into chunks of ten seconds."""
    rows, sounds, looks = [], [], []
    for video, label, split, sound, frames in videos:
        for index in range(len(sound) // (SECONDS * RATE)):
            rows.append({"clip": f"{video}_{index * SECONDS:06d}", "video": video, "split": split, "label": label,
                         "source": f"{video}.mp4", "start": 10.0 * index, "duration": 10.0, "level_db": -20.0 - index,
                         "motion": 2.0, "status": "kept"})
            sounds.append(to_int16(sound[index * SECONDS * RATE : (index + 1) * SECONDS * RATE]))
            looks.append(frames[index * SECONDS : (index + 1) * SECONDS])
    count, rng = len(rows), numpy_rng("frames")
    audio = np.stack(sounds)
    mel = np.stack([mel_of(one.tobytes()) for one in audio])
    folder.mkdir(parents=True)
    frames, thumbnail = (rng.integers(0, 255, (count, *shape, 3), np.uint8) for shape in ((SECONDS, 16, 16), (64, 64)))
    arrays = {"audio": audio, "mel": mel.astype("f2"), "frames": frames, "thumbnail": thumbnail}
    if embeddings:
        arrays["embedding-test"] = np.stack(looks).astype("f2")
        (folder / "embedding.txt").write_text("test\n")
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    pd.DataFrame(rows + (extra or [])).to_parquet(folder / "manifest.parquet")
    about = {"chunks": count, "recipe": "", "sample_rate": RATE, "hop": 1_024, "frame_rate": 1.0, "chunk_seconds": 10.0,
             "frames_per_chunk": SECONDS, "image_size": 16}
    (folder / "store.json").write_text(json.dumps(about))
    return Store(folder)


def strangers(count: int = 120) -> list[tuple[str, str, str, np.ndarray, np.ndarray]]:
    return [(f"v{n:04d}", f"class {n % 5}", "test" if n % 6 == 0 else "train", tune(n), look(n)) for n in range(count)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Store:
    skipped = {"clip": "gone_000000", "video": "gone", "split": "test", "label": "<b>wind</b>", "source": "",
               "start": 0.0, **dict.fromkeys(("duration", "level_db", "motion"), float("nan")), "status": "missing"}
    return make_store(tmp_path_factory.mktemp("small") / "mini-music" / "features", strangers(12), extra=[skipped])


def heard(browser: Browser) -> np.ndarray:
    sound, rate = soundfile.read(BytesIO(browser.audio.value), dtype="int16")
    assert rate == RATE
    return sound


def test_window_shows_the_clip_that_is_chosen(small: Store) -> None:
    browser = Browser(small)
    assert browser.row == 0 and np.array_equal(heard(browser), small.audio[0])
    browser.split.value, browser.label.value = "test", "class 1"
    wanted = np.flatnonzero((small.kept.split == "test") & (small.kept.label == "class 1"))
    assert browser.rows.tolist() == wanted.tolist() and browser.row == wanted[0]
    first = browser.picture.value
    browser.next.click()
    assert browser.row == wanted[1] and browser.place.value == 1 and browser.picture.value != first
    assert np.array_equal(heard(browser), small.audio[wanted[1]])
    assert small.kept["clip"][wanted[1]] in browser.about.value and "class 1" in browser.about.value
    assert Image.open(BytesIO(browser.picture.value)).size == (600, 232)
    for _ in range(5):
        browser.next.click()
    assert browser.row == wanted[-1], "stops at the end"
    browser.label.value = "all classes"
    assert browser.place.value == 0 and browser.row == small.rows("test")[0]


def test_window_of_nothing(small: Store) -> None:
    browser = Browser(small)
    browser.label.value = "<b>wind</b>"
    assert browser.row is None and browser.audio.value == browser.picture.value == b""
    assert "1 missing" in browser.about.value and "<b>" not in browser.about.value, "labels are no HTML"
    browser.split.value = "train"
    assert "not on the list" in browser.about.value
    browser.label.value = "class 2"
    assert browser.row is not None and browser.audio.layout.display == ""


def test_window_without_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    with pytest.raises(UserError, match="clipsynth prep mini-music") as caught:
        browse("mini-music")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::PendingDeprecationWarning")  # seaborn's own
@pytest.mark.parametrize("classes", [1, 21, 36, 309])
def test_page_of_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    labels = [f"class {n:03d}" for n in range(classes)]
    sounds = [(f"v{n:03d}", label, "train", tune(n % 5, SECONDS), look(n % 5)) for n, label in enumerate(labels)]
    store = make_store(tmp_path / "features", sounds)
    assert len(page_classes(store.kept)) == min(classes, 50)
    figure = store_page(store)
    figure.savefig(tmp_path / "page.png", dpi=80)
    width, height = Image.open(tmp_path / "page.png").size
    assert width == 800 and height < 1_000


def late(sound: np.ndarray, seconds: float) -> np.ndarray:
    return sound[round(seconds * RATE) :][: SECONDS * RATE]


def through_a_codec(sound: np.ndarray, folder: Path) -> np.ndarray:
    """What is left of a sound after it was written as AAC and read again."""
    write_video(folder / "copy.mp4", (np.zeros((64, 64, 3), np.uint8) for _ in range(41)), sound)
    decoded = decode_video(folder / "copy.mp4", image_size=64).sound.astype(np.float32) / 32_767
    return decoded[: SECONDS * RATE]


@pytest.mark.parametrize("seed", [0, 1])
def test_planted_copies_are_found(seed: int, tmp_path: Path) -> None:
    """Whole, cut elsewhere, louder and softer, noisy, coded again: under another id and on the other side."""
    rng, known = numpy_rng("plants", seed=seed), strangers()
    origins = [known[place] for place in rng.choice([n for n in range(120) if n % 6], 5, replace=False)]
    offsets = [0.0, *rng.uniform(0.5, 6.0, 4)]
    sounds = [late(origin[3], offset) for origin, offset in zip(origins, offsets, strict=True)]
    sounds[2] = sounds[2] * np.float32(rng.uniform(0.2, 0.5)) + rng.normal(0, 1e-3, len(sounds[2])).astype(np.float32)
    sounds[3] = through_a_codec(sounds[3], tmp_path)
    sounds[4] = through_a_codec(sounds[4] * np.float32(1.5), tmp_path)
    plants = [(f"copy{n}", origin[1], "test", sound, origin[4][round(offset) :][:SECONDS])
              for n, (origin, sound, offset) in enumerate(zip(origins, sounds, offsets, strict=True))]
    store = make_store(tmp_path / "features", known + plants)
    assert not on_both_sides(store.manifest), "ids alone tell nothing"
    for kind in ("sound", "picture"):
        found = find_copies(store, kind)
        kept = type(found).from_arrays(kind, found.arrays)  # what a record gives back
        assert kept.threshold == found.threshold and kept.pairs.equals(found.pairs) and kept.rates == found.rates
        video = store.kept.video
        named = {(video[pair.test], video[pair.train]) for pair in found.alarms.itertuples()}
        assert named >= {(f"copy{n}", origin[0]) for n, origin in enumerate(origins)}, kind
        assert len(named) <= 5 + 2, kind


def test_strangers_are_left_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path / "features", strangers())
    for kind in ("sound", "picture"):
        found = find_copies(store, kind)
        assert len(found.pairs) == 40 and len(found.alarms) <= 1, kind
        alarm, recall = found.rates
        assert alarm <= 0.0125 and recall >= 0.9, kind


def test_no_embeddings_and_too_few_videos(tmp_path: Path) -> None:
    store = make_store(tmp_path / "mini-music" / "features", strangers(12), embeddings=False)
    assert len(find_copies(store).pairs) == len(store.rows("test"))
    with pytest.raises(UserError, match="no CLIP embeddings"):
        find_copies(store, "picture")
    with pytest.raises(UserError, match="too few videos"):
        find_copies(make_store(tmp_path / "few" / "features", strangers(3)))


def test_cards_are_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSYNTH_REPORTS", str(tmp_path))
    report = Report("data/browse", "mini")
    report.text("mini-music", "# A card\n\nwith a line\n\n", "A card.")
    report.close()
    assert (tmp_path / "cards/mini-music.md").read_text() == "# A card\n\nwith a line\n"
    assert "cards/mini-music.md" in provenance(tmp_path)
    assert "[cards/mini-music.md](cards/mini-music.md)" in (tmp_path / "README.md").read_text()
