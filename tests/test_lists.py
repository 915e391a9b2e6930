"""Lists are read with suspicion, videos are fetched politely, and what could not be had is accounted for.

Nothing here needs the network: a stand-in plays yt-dlp's part, and the real yt-dlp talks to a server on this machine.
"""
import contextlib
import functools
import http.server
import json
import os
import re
import shutil
import string
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clipsynth.base.config import DataConfig
from clipsynth.base.hashing import hash_split, numpy_rng
from clipsynth.base.process import UserError
from clipsynth.data import download as downloading
from clipsynth.data.download import classify, download, download_dataset, download_options, fetch
from clipsynth.data.lists import Video, find_list, read_folder, read_list, split_of
from clipsynth.data.outcomes import (
    OUTCOMES,
    PAPER_COUNTS,
    append_outcomes,
    compare_counts,
    outcome_counts,
    read_outcomes,
    rot,
    rot_summary,
)
from clipsynth.data.untrusted import check_id, check_label, index_videos
from clipsynth.worlds.film import write_video
from clipsynth.worlds.world import video_ids

IDS = video_ids("lists", 40)
FROM_LIST = [Video(video, f"class {n % 4}") for n, video in enumerate(IDS)]
CLIPS = [Video(video, f"class {n % 4}", 30.0, "train", f"{video}_000030") for n, video in enumerate(IDS)]


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert len(text.splitlines()) == 1 and len(text) < 600, text
    return text


# ---------------------------------------------------------------- lists

NASTY = ["../", "..\\", "/", "\\", "\0", "\n", "\r", "\u2028", "-", "--exec", "$(touch x)", "`x`", ";", "|", "&",
         "%(id)s", "%", "~", "$HOME", "con", "NUL", "aux.mp4", "COM1", "C:", "file://", "é", "e\u0301", "ｅ", "\u202e",
         "\u200b", "\ufeff", "\ud800", "👁", " ", "\t", ".", "..", "...", "*", "?", '"', "'", "<", ">", "#", ",", "a",
         "B", "7", "_", "dQw4w9WgXcQ", "x" * 120, ".mp4", ".part"]


def nasty(rng: np.random.Generator) -> str:
    kind = rng.integers(3)
    if kind == 0:
        return "".join(rng.choice(NASTY, rng.integers(1, 5)))
    if kind == 1:
        return "".join(chr(int(c)) for c in rng.integers(0, 0x2FFF, rng.integers(0, 14)))
    return "".join(rng.choice(list(string.printable), rng.integers(0, 14)))


def is_contained(stem: str, folder: Path) -> bool:
    return (folder / f"{stem}.mp4").resolve().parent == folder and len(os.fsencode(f".{stem}.1234567.part.npz")) < 255


def test_no_id_leaves_its_folder(tmp_path: Path) -> None:
    """Thousands of strings as ids, labels and starts: whatever a reader lets through stays inside."""
    rng, folder, passed = numpy_rng("nasty"), tmp_path.resolve(), 0
    for _ in range(10_000):
        text, label = nasty(rng), nasty(rng)
        try:
            assert is_contained(check_id(text, "list"), folder) and "%" not in text and text.isascii()
            passed += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 200
        try:
            assert (folder / check_label(label, "list") / "x").resolve().parent.parent == folder
            passed += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1 and len(str(error)) < 250
    assert passed > 250, "the test would be empty if nothing passed"


def test_names_that_mean_something_elsewhere() -> None:
    for name in ("..", "a..b", ".hidden", "con", "NUL.mp4", "com1.x", "Lpt9", "PRN", "aux", "x" * 101):
        with pytest.raises(UserError):
            check_id(name, "list")
    for name in ("-dashed", "console", "com10", "x" * 100, "a.b-c_d"):
        assert check_id(name, "list") == name


@pytest.mark.parametrize("suffix", [".json", ".csv", ".txt"])
def test_readers_survive_anything(suffix: str, tmp_path: Path) -> None:
    """A list made of nasty words either gives videos that stay inside, or one line."""
    rng, folder, passed, path = numpy_rng("lists", suffix), tmp_path.resolve(), 0, tmp_path / f"list{suffix}"
    for _ in range(1_000):
        words = [nasty(rng) if rng.random() < 0.3 else str(rng.choice(IDS)) for _ in range(3)]
        if suffix == ".json":
            text = json.dumps({"videos": {nasty(rng): words[:2], "violin": words[2:]}})
        elif suffix == ".csv":
            start = nasty(rng) if rng.random() < 0.2 else str(rng.integers(0, 90_000))
            side = rng.choice(["train", "test", "x"], p=[0.45, 0.45, 0.1])
            text = "\n".join(f'{word},{start},"{nasty(rng)}",{side}' for word in words)
        else:
            text = "\n".join(words)
        data = text.encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            data = data[: rng.integers(len(data))] + rng.bytes(rng.integers(4))
        path.write_bytes(data)
        try:
            videos = read_list(path)
        except UserError as error:
            assert len(str(error).split("\n")) == 1 and str(path) in str(error)
            continue
        passed += 1
        assert videos and all(is_contained(name, folder) for video in videos for name in (video.stem, video.id))
    assert passed > 10


def test_long_things_get_short_messages(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    for text in ("x" * 10**6 + ",1,a,train", "dQw4w9WgXcQ,1," + "a" * 10**6 + ",train", '"' + "x\n" * 10**5):
        path.write_text(text)
        with pytest.raises(UserError) as error:
            read_list(path)
        assert "line 1" in one_line(error)
    path = tmp_path / "list.json"
    for ids in ("[" * 100_000, "[" + "9" * 5_000 + "]", f'["{"x" * 10**6}"]'):
        path.write_text(f'{{"videos": {{"a": {ids}}}}}')
        with pytest.raises(UserError) as error:
            read_list(path)
        one_line(error)


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "utf16.csv").write_bytes("dQw4w9WgXcQ,1,a,train\n".encode("utf-16"))
    (tmp_path / "list.xml").touch()
    (tmp_path / "only-comments.txt").write_text("# nothing\n")
    for name in ("no.csv", "no.json", "no.txt", "utf16.csv", "list.xml", "only-comments.txt", "a\0b.csv"):
        with pytest.raises(UserError) as error:
            read_list(tmp_path / name)
        one_line(error)


@pytest.mark.parametrize("line", [
    "86400,a,test", "-1,a,test", "1.5,a,test", "²,a,test", "٣,a,test", ",a,test", "2,a,valid", "2,,test", "2,a, b,test",
    "2,a", "1,a,train"])
def test_a_bad_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"{IDS[0]},1,a,test\n\n{IDS[0]},{line}\n")
    with pytest.raises(UserError) as error:
        read_list(tmp_path / "list.csv")
    assert "list.csv, line 3: " in one_line(error)


def test_what_json_would_lose_in_silence(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(f'{{"videos": {{"a": ["{IDS[0]}"], "a": ["{IDS[1]}"]}}}}')
    with pytest.raises(UserError) as error:
        read_list(tmp_path / "list.json")
    assert "'a' stands there twice" in one_line(error)


def test_the_time_of_a_list_grows_with_its_lines(tmp_path: Path) -> None:
    """Ten times as many lines take ten times as long, not a hundred times."""
    rng = numpy_rng("many")
    letters = np.array(list(string.ascii_letters + string.digits + "-_"))
    ids = ["".join(row) for row in letters[rng.integers(64, size=(200_000, 11))]]
    path = tmp_path / "list.csv"
    lines = [f'{video},{n % 900},"bee, wasp, etc. buzzing {n % 309}",{"train" if n % 13 else "test"}\r\n'
             for n, video in enumerate(ids)]
    spent = {}
    for count in (20_000, 200_000):
        path.write_bytes("".join(lines[:count]).encode())
        begin = time.process_time()
        videos = read_list(path)
        spent[count] = time.process_time() - begin
    assert spent[200_000] < 40 * spent[20_000]
    assert len(videos) == 200_000 and len({video.label for video in videos}) == 309
    assert videos[13] == Video(ids[13], videos[13].label, 13.0, "test", f"{ids[13]}_000013")


def test_the_same_list_in_three_forms(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps({"videos": {"violin": IDS}}))
    (tmp_path / "list.txt").write_bytes(("\ufeff# mine\r\n" + "\r\n".join(IDS)).encode())
    assert [video.id for name in ("list.json", "list.txt") for video in read_list(tmp_path / name)] == IDS * 2
    with pytest.raises(UserError) as error:
        find_list(tmp_path)
    assert "keep one" in one_line(error)
    (tmp_path / "list.txt").unlink()
    assert find_list(tmp_path) == tmp_path / "list.json"


# ---------------------------------------------------------------- folders

def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_every_file_of_a_folder_is_found_again(tmp_path: Path) -> None:
    """Whatever files are called, each gets a safe name of its own, and the index knows it."""
    rng, folder = numpy_rng("folder"), tmp_path / "videos"
    for n in range(300):
        name = nasty(rng).replace("/", "").replace("\0", "").encode("utf-8", "ignore").decode()[:60]
        touch(folder / f"class {n % 7}" / f"{name}{n % 3}.mp4")
    there = [path for path in folder.rglob("*.mp4") if not path.name.startswith(".")]
    videos, index = read_folder(folder), index_videos(folder)
    assert len(there) > 200 and len(videos) == len({video.stem for video in videos}) == len(there)
    assert sorted(index[video.stem] for video in videos) == sorted(there)
    assert all(is_contained(video.stem, folder.resolve()) and check_id(video.id, "") for video in videos)
    assert all(index[video.stem].parent.name == video.label for video in videos)
    assert videos == read_folder(folder), "the same order each time"


def test_two_files_of_one_name(tmp_path: Path) -> None:
    for name in ("cat/001.mp4", "dog/001.mkv", "dog/002.mp4", "002.wav"):
        touch(tmp_path / name)
    videos = {video.label: video for video in read_folder(tmp_path) if video.stem != "002"}
    assert set(videos) == {"cat", "dog"} and videos["cat"].id.startswith("001-")
    with pytest.raises(UserError) as error:
        index_videos(tmp_path, {"001"})
    assert "cat" in one_line(error) and "dog" in str(error.value)
    only_sound = touch(tmp_path / "song.mp3")
    found = index_videos(tmp_path, {"002", "song"})
    assert found["002"] == tmp_path / "dog/002.mp4", "a sound file beside it is not the video"
    assert found["song"] == only_sound, "prep says no-video"


def test_links_do_not_lead_out(tmp_path: Path) -> None:
    outside, folder = touch(tmp_path / "outside/secret.mp4"), tmp_path / "videos"
    inside = touch(folder / "real.mp4")
    (folder / "leads-out.mp4").symlink_to(outside)
    (folder / "folder-out").symlink_to(outside.parent)
    (folder / "up").symlink_to(folder)
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    (folder / "broken.mp4").symlink_to(folder / "nothing.mp4")
    (folder / "alias.mp4").symlink_to(inside)
    os.mkfifo(folder / "pipe.mp4")
    assert sorted(index_videos(folder)) == ["alias", "real"]
    (tmp_path / "link").symlink_to(folder)
    assert sorted(index_videos(tmp_path / "link")) == ["alias", "real"], "the folder itself may be a link"


def test_an_empty_folder_is_no_list(tmp_path: Path) -> None:
    for name in ("readme.md", "a.mp4.part", "a.mp4.part-Frag3", ".unfinished/b.mp4"):
        touch(tmp_path / name)
    with pytest.raises(UserError) as error:
        read_list(tmp_path)
    assert "no video file" in one_line(error)
    with pytest.raises(UserError) as error:
        find_list(tmp_path)
    assert "list.json" in one_line(error)
    touch(tmp_path / "videos/a.mp4")
    assert read_list(find_list(tmp_path)) == [Video("a", "")]


def test_lists_may_name_files_with_their_suffix(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("garden.mp4\nrain.WEBM\ntake.2\n")
    (tmp_path / "list.json").write_text('{"videos": {"a": ["garden.mp4", "rain.WEBM", "take.2"]}}')
    (tmp_path / "list.csv").write_text("garden.mp4,7,a,test\n")
    for name in ("list.txt", "list.json"):
        assert [video.id for video in read_list(tmp_path / name)] == ["garden", "rain", "take.2"]
    assert read_list(tmp_path / "list.csv")[0].stem == "garden_000007"
    for text, word in (("garden.mp4\ngarden\n", "line 1"), (".mp4", "no video id"), ("nul.mp4", "no video id")):
        (tmp_path / "list.txt").write_text(text)
        with pytest.raises(UserError) as error:
            read_list(tmp_path / "list.txt")
        assert word in one_line(error)


def test_a_list_keeps_the_name_it_was_published_under(tmp_path: Path) -> None:
    """It is taken where it is the only one, in any case of letters; else a line says what to rename."""
    music = json.dumps({"videos": {"violin": IDS}})
    touch(tmp_path / "videos" / f"{IDS[0]}.mp4")
    for name in ("world.json", "truth.csv", "captions.csv", "downloads.csv", "notes.txt", "about.json", "labels.csv"):
        touch(tmp_path / name, b"hello")
    assert find_list(tmp_path) == tmp_path / "videos", "what is no list says nothing"
    published = touch(tmp_path / "MUSIC21_solo_videos.json", music.encode())
    assert find_list(tmp_path) == published and len(read_list(published)) == 40
    touch(tmp_path / "vggsound.csv", f"{IDS[1]},5,a,test\n".encode())
    with pytest.raises(UserError) as error:
        find_list(tmp_path)
    assert "MUSIC21_solo_videos.json and vggsound.csv: rename" in one_line(error)
    for name in ("LIST.TXT", "List.json"):
        named = touch(tmp_path / name, music.encode() if name.endswith("json") else IDS[2].encode())
        assert find_list(tmp_path) == named and read_list(named)
        named.unlink()
    only = touch(tmp_path / "other/ids.txt", IDS[3].encode())
    assert find_list(only.parent) == only, "without videos, one list of ids is the list"


def test_links_that_are_not_followed_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = touch(tmp_path / "disk/a.mp4").parent
    for name in ("one", "two"):
        (tmp_path / name / "videos").mkdir(parents=True)
        (tmp_path / name / "videos/linked").symlink_to(outside)
    touch(tmp_path / "one/videos/b.mp4")
    assert sorted(index_videos(tmp_path / "one/videos")) == ["b"] and len(read_folder(tmp_path / "one/videos")) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "linked" in said and "make the whole folder a link" in said
    with pytest.raises(UserError) as error:
        find_list(tmp_path / "two")
    assert "linked" in one_line(error)
    (tmp_path / "three").mkdir()
    (tmp_path / "three/videos").symlink_to(outside)
    assert [video.id for video in read_list(find_list(tmp_path / "three"))] == ["a"]


# ---------------------------------------------------------------- fetching

class StandIn:
    """Behaves like yt_dlp.YoutubeDL: writes a small file, or raises what YouTube would make it raise."""
    trouble: dict[str, BaseException | str] = {}
    asked: list[str] = []
    options: list[dict[str, Any]] = []
    data = b"video"

    def __init__(self, options: dict[str, Any]):
        self.given = options
        StandIn.options.append(options)

    def __enter__(self) -> "StandIn":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def extract_info(self, address: str, download: bool) -> dict[str, Any]:
        video = address.removeprefix("https://www.youtube.com/watch?v=")
        assert download and len(video) == 11
        StandIn.asked.append(video)
        trouble = StandIn.trouble.get(video)
        if isinstance(trouble, BaseException):
            raise trouble
        if trouble:
            raise RuntimeError(f"ERROR: [youtube] {video}: {trouble}")
        path = Path(self.given["paths"]["home"], self.given["outtmpl"]["default"] % {"ext": "webm"})
        path.write_bytes(StandIn.data)
        return {"requested_downloads": [{"filepath": str(path)}]}


@pytest.fixture(autouse=True)
def _fresh_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn.trouble, StandIn.asked, StandIn.options, StandIn.data = {}, [], [], b"video"
    monkeypatch.setattr(downloading.shutil, "which", lambda name: f"/usr/bin/{name}")


def get(folder: Path, videos: list[Video] = FROM_LIST, **options: Any) -> dict[str, str]:
    return download(videos, folder / "videos", folder / "downloads.csv", engine=StandIn, **{"pause": 0, **options})


def test_outcomes_are_told_apart_and_remembered(tmp_path: Path) -> None:
    said = ["Private video. Sign in if you've been granted access",
            "Video unavailable. This video has been removed by the uploader",
            "The uploader has not made this video available in your country",
            "HTTP Error 429: Too Many Requests"]
    StandIn.trouble = dict(zip(IDS, said, strict=False))
    found = get(tmp_path)
    assert list(found)[:5] == IDS[:5] and list(found.values())[:5] == ["private", "gone", "geo", "error", "kept"]
    assert read_outcomes(tmp_path / "downloads.csv") == found and set(found.values()) == set(OUTCOMES)
    counts = outcome_counts(FROM_LIST, found)
    assert list(zip(counts.outcome, counts.files, strict=True)) == [
        ("kept", 36), ("private", 1), ("gone", 1), ("geo", 1), ("error", 1)]

    StandIn.asked, StandIn.trouble = [], {}
    assert get(tmp_path)[IDS[3]] == "kept" and StandIn.asked == [IDS[3]], "only the error is asked for again"
    StandIn.asked = []
    assert get(tmp_path, retry=("private", "geo"))[IDS[0]] == "kept" and StandIn.asked == [IDS[0], IDS[2]]


def test_what_is_there_is_not_asked_for(tmp_path: Path) -> None:
    touch(tmp_path / "videos/sub" / f"{IDS[0]}.mkv")
    touch(tmp_path / "videos" / f"{IDS[1]}.mp4.part")
    touch(tmp_path / "videos" / f"{IDS[2]}.webm", b"")
    found = get(tmp_path, FROM_LIST[:3])
    assert StandIn.asked == IDS[1:3], "a part of a file and an empty file do not count"
    assert set(found.values()) == {"kept"} == set(read_outcomes(tmp_path / "downloads.csv").values())
    (tmp_path / "videos" / f"{IDS[1]}.webm").unlink()
    StandIn.asked = []
    assert get(tmp_path, FROM_LIST[:3]) == found and StandIn.asked == [], "deleted to make room"
    get(tmp_path, FROM_LIST[:3], retry=("kept",))
    assert StandIn.asked == [IDS[1]]


def test_limit_and_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(downloading, "time", SimpleNamespace(sleep=slept.append))
    assert len(get(tmp_path, limit=5, pause=4.0)) == 5 and StandIn.asked == IDS[:5]
    assert slept[0] == 0 and all(2 <= seconds <= 6 for seconds in slept[1:]) and len(set(slept)) == 5
    assert len(get(tmp_path, limit=3)) == 8 and len(get(tmp_path, limit=0)) == 8


def test_ctrl_c_loses_nothing(tmp_path: Path) -> None:
    StandIn.trouble = {IDS[3]: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        get(tmp_path)
    assert read_outcomes(tmp_path / "downloads.csv") == dict.fromkeys(IDS[:3], "kept")
    StandIn.trouble, StandIn.asked = {}, []
    assert set(get(tmp_path).values()) == {"kept"} and StandIn.asked == IDS[3:]


def test_a_ban_stops_the_run(tmp_path: Path) -> None:
    StandIn.trouble = dict.fromkeys(IDS[5:], "Sign in to confirm you’re not a bot. Use --cookies-from-browser")
    with pytest.raises(UserError) as error:
        get(tmp_path, patience=6)
    assert "6 requests in a row" in one_line(error) and "not a bot" in str(error.value) and len(StandIn.asked) == 11
    StandIn.trouble, StandIn.asked = {}, []
    assert set(get(tmp_path).values()) == {"kept"} and StandIn.asked == IDS[5:]
    StandIn.trouble = dict.fromkeys(IDS[::2], "timed out")
    assert set(get(tmp_path / "other", patience=2).values()) == {"kept", "error"}, "errors not in a row do not stop it"


@pytest.mark.parametrize("said", ["unable to write data: [Errno 28] No space left on device",
                                  "ERROR: unable to open for writing: [Errno 122] Disk quota exceeded"])
def test_a_full_disk_is_no_answer_about_a_video(said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    StandIn.trouble = {IDS[2]: said}
    with pytest.raises(UserError) as error:
        get(tmp_path)
    assert "is full" in one_line(error) and "CLIPSYNTH_DATA" in str(error.value)
    assert read_outcomes(tmp_path / "downloads.csv") == dict.fromkeys(IDS[:2], "kept")
    StandIn.asked, StandIn.trouble = [], {}
    with monkeypatch.context() as patch:
        patch.setattr(downloading.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000))
        with pytest.raises(UserError, match="is full"):
            get(tmp_path)
    assert not StandIn.asked and set(get(tmp_path).values()) == {"kept"}


def test_nothing_but_a_whole_file_in_its_place_counts(tmp_path: Path) -> None:
    StandIn.data = b""
    assert get(tmp_path, FROM_LIST[:1]) == {IDS[0]: "error"}

    class Elsewhere(StandIn):
        def extract_info(self, address: str, download: bool) -> dict[str, Any]:
            return {"requested_downloads": [{"filepath": str(touch(tmp_path / "elsewhere" / f"{IDS[0]}.mp4"))}]}

    class Nothing(StandIn):
        def extract_info(self, address: str, download: bool) -> Any:
            return None

    for engine in (Elsewhere, Nothing):
        assert fetch(FROM_LIST[0], tmp_path / "videos", engine)[0] == "error"


def test_bad_settings_get_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad: list[dict[str, Any]] = [{"rate": 0}, {"pause": -1}, {"pause": float("nan")}, {"seconds": 0}, {"limit": -1},
                                 {"retry": ("dead",)}, {"patience": 0}]
    for options in bad:
        with pytest.raises(UserError) as error:
            get(tmp_path, **options)
        one_line(error)
    with pytest.raises(UserError) as error:
        get(tmp_path, [Video("../../up", "x")])
    with pytest.raises(UserError) as error:
        get(tmp_path, [Video("my-own-film", "x"), Video("short", "x")])
    assert "short" in one_line(error)
    monkeypatch.setenv("WHERE", "else")
    with pytest.raises(UserError) as error:
        download(FROM_LIST, tmp_path / "$WHERE", tmp_path / "downloads.csv", engine=StandIn)
    assert "rename" in one_line(error)
    monkeypatch.setattr(downloading.shutil, "which", lambda name: None)
    with pytest.raises(UserError) as error:
        get(tmp_path, CLIPS)
    assert "ffmpeg" in one_line(error)
    assert get(tmp_path, FROM_LIST[:1]) == {IDS[0]: "kept"}, "whole videos need no ffmpeg"
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    with pytest.raises(UserError) as error:
        download(FROM_LIST, tmp_path / "more", tmp_path / "more.csv")
    assert 'pip install "clipsynth[download]"' in one_line(error)
    assert not StandIn.options[1:], "nothing was asked for meanwhile"


def test_only_ten_seconds_of_a_clip_are_asked_for(tmp_path: Path) -> None:
    videos = [Video(IDS[0], "a", float(start), "test", f"{IDS[0]}_{start:06d}") for start in (30, 0)]
    found = get(tmp_path, videos)
    assert list(found) == [video.stem for video in videos] and len(list((tmp_path / "videos").iterdir())) == 2
    first, second = StandIn.options
    assert list(first["download_ranges"]({}, None)) == [{"start_time": 30.0, "end_time": 40.0}]
    assert list(second["download_ranges"]({}, None)) == [{"start_time": 0.0, "end_time": 10.0}]
    assert first["force_keyframes_at_cuts"] is second["force_keyframes_at_cuts"] is True
    whole = download_options(FROM_LIST[0], tmp_path, rate=123)
    assert "download_ranges" not in whole and whole["ratelimit"] == 123
    assert not {"exec_cmd", "exec_before_dl_cmd", "postprocessors", "external_downloader"} & set(first)
    with pytest.raises(UserError):
        download_options(Video("ok", "x", file="../up"), tmp_path)


def test_messages_of_the_installed_yt_dlp() -> None:
    """Errors as the real classes word them, with the id and the request to report a bug."""
    utils = pytest.importorskip("yt_dlp.utils")

    def message(text: str, **about: Any) -> str:
        error = utils.ExtractorError(text, video_id="private-vid", ie="youtube", **about)
        return str(utils.DownloadError(f"ERROR: {error}"))

    assert classify(message("Video unavailable", expected=True)) == "gone"
    assert classify(message("This video is not available", expected=True)) == "gone"
    assert classify(message("This video is private", expected=True)) == "private"
    assert classify(message("Unable to extract, video unavailable")) == "error", "a bug says nothing about the video"
    assert classify(message("Premieres in 3 hours", expected=True)) == "error"
    assert classify(str(utils.GeoRestrictedError("not available from your location due to geo restriction"))) == "geo"
    assert classify("") == classify("Connection reset by peer") == classify("Remote end closed connection") == "error"


# ---------------------------------------------------------------- the account

def test_a_torn_line_costs_one_line(tmp_path: Path) -> None:
    """A crash at any byte: what was whole before it is read, and the next writer goes on from there."""
    path = tmp_path / "downloads.csv"
    details = ['é, "quoted"\nand\ttorn', "x" * 5_000, "\x1b[31mred\0\ud800"]
    append_outcomes(path, list(zip(IDS, ["kept", "gone", "error"], details, strict=False)))
    data = path.read_bytes()
    assert data.count(b"\n") == 4 and len(data) < 1_000
    for end in range(len(data) + 1):
        path.write_bytes(data[:end])
        whole = max(data[:end].count(b"\n") - 1, 0)
        expected = dict(list(zip(IDS, ["kept", "gone", "error"], strict=False))[:whole])
        assert read_outcomes(path) == expected
        append_outcomes(path, [(IDS[9], "geo", "")])
        assert read_outcomes(path) == {**expected, IDS[9]: "geo"}
        assert path.read_bytes().startswith(b"file,outcome,detail\n")
    path.unlink()
    append_outcomes(path, [])
    assert not path.exists() and read_outcomes(path) == {}


@pytest.mark.parametrize(
    "line", ["aaaaaaaaaaa,lost,", "../up,kept,", "aaaaaaaaaaa,kept", 'aaaaaaaaaaa,kept,"', "aaaaaaaaaaa,kept,\0"])
def test_a_bad_account_names_its_line(line: str, tmp_path: Path) -> None:
    (tmp_path / "downloads.csv").write_text(f"file,outcome,detail\n{IDS[0]},kept,\n{line}\n")
    with pytest.raises(UserError) as error:
        read_outcomes(tmp_path / "downloads.csv")
    assert "line 3" in one_line(error)


# ---------------------------------------------------------------- the real yt-dlp, a server on this machine

class Server(http.server.SimpleHTTPRequestHandler):
    """Serves files and parts of files, as a video site does; says nothing."""
    breaks_off = False  # in the middle

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        data, part = path.read_bytes(), re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(part[1]), int(part[2] or len(data) - 1)) if part else (0, len(data) - 1)
        data, total = data[first : last + 1], len(data)
        self.send_response(206 if part else 200)
        if part:
            self.send_header("Content-Range", f"bytes {first}-{first + len(data) - 1}/{total}")
        for name, value in {"Content-Type": "video/mp4", "Content-Length": len(data), "Accept-Ranges": "bytes"}.items():
            self.send_header(name, str(value))
        self.end_headers()
        with contextlib.suppress(OSError):  # ffmpeg hangs up when it has what it wants
            self.wfile.write(data[:50_000] if self.breaks_off else data)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A film of 30 seconds whose grey says which second it is."""
    folder = tmp_path_factory.mktemp("server")
    pictures = (np.full((64, 64, 3), 8 * (n // 4), np.uint8) for n in range(120))
    sound = numpy_rng("noise").normal(0, 0.1, 480_000).astype(np.float32)
    write_video(folder / f"{IDS[0]}.mp4", pictures, sound, frame_rate=4)
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Server, directory=str(folder)))
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    httpd.server_close()


def local_engine(address: str) -> Any:
    """The real YoutubeDL with our options, but for the extractor; YouTube's address is replaced by the server's."""
    yt_dlp = pytest.importorskip("yt_dlp")

    class Local(yt_dlp.YoutubeDL):  # type: ignore[misc, name-defined]
        def __init__(self, options: dict[str, Any]):
            super().__init__({**options, "allowed_extractors": ["generic"]})

        def extract_info(self, url: str, **options: Any) -> Any:
            here = url.replace("https://www.youtube.com/watch?v=", f"{address}/") + ".mp4"
            return super().extract_info(here, **options)

    return Local


@pytest.fixture
def no_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home/cache"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home/config"))
    touch(tmp_path / "home/config/yt-dlp/config", b"--exec 'touch pwned'\n-o pwned.%(ext)s\n")


def test_the_real_yt_dlp_takes_our_options(
        server: tuple[str, Path], no_proxy: None, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The file arrives under the right name, a missing one is gone, and no configuration of the user's is read."""
    (address, source), folder = server, tmp_path / "50% of it"
    found = download(FROM_LIST[:2], folder, tmp_path / "downloads.csv", pause=0, engine=local_engine(address))
    assert found == {IDS[0]: "kept", IDS[1]: "gone"}, (tmp_path / "downloads.csv").read_text()
    assert [path.name for path in folder.iterdir()] == [f"{IDS[0]}.mp4"]
    assert (folder / f"{IDS[0]}.mp4").read_bytes() == (source / f"{IDS[0]}.mp4").read_bytes()
    said = capfd.readouterr()
    assert said.out == said.err == "", "yt-dlp is quiet: what it has to say is in the account"


def test_what_breaks_off_is_no_file(
        server: tuple[str, Path], no_proxy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download that breaks off leaves its piece where no index looks; the next one is whole."""
    monkeypatch.setattr(Server, "breaks_off", True)
    get_it = functools.partial(download, FROM_LIST[:1], tmp_path / "videos", tmp_path / "downloads.csv", pause=0)
    assert get_it(engine=local_engine(server[0])) == {IDS[0]: "error"}
    assert [path.name for path in (tmp_path / "videos").iterdir()] == [".unfinished"]
    assert index_videos(tmp_path / "videos") == {}
    monkeypatch.setattr(Server, "breaks_off", False)
    assert get_it(engine=local_engine(server[0])) == {IDS[0]: "kept"}
    assert (tmp_path / "videos" / f"{IDS[0]}.mp4").read_bytes() == (server[1] / f"{IDS[0]}.mp4").read_bytes()
    assert not (tmp_path / "videos/.unfinished").exists()


@pytest.mark.skipif(not shutil.which("ffmpeg"), reason="ffmpeg is not installed")
def test_the_real_yt_dlp_cuts_a_clip(server: tuple[str, Path], no_proxy: None, tmp_path: Path) -> None:
    """Ten seconds, beginning where the list says, though no key frame is there."""
    import av

    video = Video(IDS[0], "a", 13.0, "test", f"{IDS[0]}_000013")
    found = download([video], tmp_path / "videos", tmp_path / "downloads.csv", pause=0, engine=local_engine(server[0]))
    assert found == {video.stem: "kept"}, (tmp_path / "downloads.csv").read_text()
    assert [path.name for path in (tmp_path / "videos").iterdir()] == [f"{video.stem}.mp4"]
    with av.open(str(tmp_path / "videos" / f"{video.stem}.mp4")) as container:
        assert abs((container.duration or 0) / 1e6 - 10) < 0.1
        grey = [frame.to_ndarray(format="rgb24").mean() / 8 for frame in container.decode(video=0)]
    assert len(grey) == 40 and abs(grey[2] - 13) < 0.4 and abs(grey[38] - 22) < 0.4


def test_the_real_yt_dlp_chooses_a_small_format(no_proxy: None, tmp_path: Path) -> None:
    """At most 360 lines where there are such, one file before two; only YouTube's extractor may answer."""
    yt_dlp = pytest.importorskip("yt_dlp")

    def chosen(*formats: tuple[int, bool, bool]) -> list[int]:
        about = [{"format_id": f"{lines}{'v' * picture}{'a' * sound}", "url": "http://127.0.0.1/x", "ext": "mp4",
                  "height": lines or None, "vcodec": ["none", "avc1"][picture], "acodec": ["none", "mp4a"][sound]}
                 for lines, picture, sound in formats]
        with yt_dlp.YoutubeDL(download_options(FROM_LIST[0], tmp_path)) as client:
            assert list(client._ies) == ["Youtube"]
            film = {"id": "x", "title": "x", "extractor": "youtube", "formats": about}
            info = client.process_ie_result(film, download=False)
            return [part.get("height") or 0 for part in info.get("requested_formats") or [info]]

    both, picture, sound = (True, True), (True, False), (False, True)
    assert chosen((144, *both), (360, *both), (720, *both), (240, *picture), (0, *sound)) == [360]
    assert chosen((1080, *picture), (360, *picture), (144, *picture), (0, *sound)) == [360, 0]
    assert chosen((1080, *picture), (720, *picture), (0, *sound)) == [720, 0]


def test_a_dataset_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    made = "clipsynth world mini-music --profile mini"
    for name, word in (("mini-music", made), ("music", "list.json"), ("../up", "../up")):
        with pytest.raises(UserError) as error:
            download_dataset(name, engine=StandIn)
        assert word in one_line(error)
    touch(tmp_path / "vggsound/list.csv", "".join(f'{video.id},30,"a, b",test\r\n' for video in CLIPS).encode())
    counts = download_dataset("vggsound", limit=3, pause=0, engine=StandIn)
    assert counts.values[:, :2].tolist() == [["kept", 3], ["not asked", len(CLIPS) - 3]]
    assert sorted(index_videos(tmp_path / "vggsound/videos")) == sorted(video.stem for video in CLIPS[:3])


# ---------------------------------------------------------------- rot, splits, counts

def test_rot_counts_what_is_known() -> None:
    fate = {IDS[0]: "gone", IDS[4]: "private", IDS[8]: "geo", IDS[12]: "error", IDS[1]: "kept", "unknown": "gone"}
    table = rot(FROM_LIST, fate).set_index("label")
    first, second, third = (table.loc[f"class {n}"] for n in range(3))
    assert first[["listed", "asked", "alive", "private", "gone", "geo", "error"]].tolist() == [10, 4, 0, 1, 1, 1, 1]
    assert first.share_alive == 0 and second.share_alive == 1 and np.isnan(third.share_alive)
    assert table.listed.sum() == 40 and third.asked == 0

    every = rot_summary(FROM_LIST, fate).set_index("side").loc["all"]
    assert (every.listed, every.asked, every.alive, every.classes_lost) == (40, 5, 1, 0)
    assert (every.smallest_class, every.smallest_left) == ("class 0", 7)
    assert every.share_alive == 0.25 and every.interval_wider == pytest.approx((40 / 37) ** 0.5)
    assert every.balance_shift == pytest.approx(10 / 40 - 7 / 37)


def test_rot_of_a_side_that_is_dead_or_empty() -> None:
    summary = rot_summary(CLIPS, {video.stem: "gone" for video in CLIPS}).set_index("side")
    assert summary.classes_lost.tolist() == [4, 4, 0] and summary.listed.tolist() == [40, 40, 0]
    assert np.isinf(summary.loc["train"].interval_wider) and (summary.share_alive.fillna(0) == 0).all()
    assert rot([], {}).empty


def test_splits_are_ours_or_the_lists() -> None:
    ours = DataConfig(split="hash", test_share=0.3)
    assert all(split_of(video) == "train" for video in CLIPS)
    assert [split_of(video, ours) for video in CLIPS] == [hash_split(video.id, 0.3) for video in CLIPS]
    with pytest.raises(UserError) as error:
        split_of(CLIPS[0], DataConfig(split="random"))
    one_line(error)
    other = Video(IDS[3], "x", 50.0, "test", f"{IDS[3]}_000050")
    assert len({split_of(video, ours) for video in (CLIPS[3], other)}) == 1, "all clips of a video are on one side"


def test_counts_are_explained() -> None:
    exact = compare_counts("vggsound", 199_467, 199_467, 166_702)
    assert exact.difference.fillna(0).tolist() == [0] * 6
    table = compare_counts("music", 1_164, 582, 9_000, 100)
    assert table.difference.tolist()[2:] == [10_809, 9_000, 100, 1_709]
    assert list(PAPER_COUNTS) == ["music", "vggsound"]
    for wrong in (("kinetics", 1, 1, 1), ("music", 10, 11, 5), ("music", 10, 0, 0)):
        with pytest.raises(UserError) as error:
            compare_counts(*wrong)
        one_line(error)
