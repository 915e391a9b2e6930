"""Damaged files, made here from good ones: none may crash, hang, write anything, or pass for what it is not.

What cannot be known is said at `allowed`: compressed sound carries no checksum in most containers, so a flipped bit in
its payload may change the sound of one packet without a trace. It must never change more than that.
"""
import multiprocessing
import os
import resource
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipsynth.base.config import DataConfig
from clipsynth.data.chunks import cut_chunks
from clipsynth.data.video import STATUSES, BadVideo, decode_video

CONFIG = DataConfig(chunk_seconds=2.0)
SECONDS, LIMIT, MEMORY = 6, 20.0, 1_500  # of a good file; s for a damaged one, MB
FORMATS = {  # container, picture, sound, rate; the muxer's options
    "first.mp4": ("libx264", "aac", 44_100, {"movflags": "faststart"}),
    "last.mp4": ("libx264", "aac", 44_100, {}),
    "plain.mov": ("mpeg4", "pcm_s16le", 32_000, {"movflags": "faststart"}),
    "sums.mkv": ("libx264", "flac", 44_100, {}),
    "web.webm": ("libvpx", "libopus", 48_000, {}),
    "old.avi": ("mpeg4", "libmp3lame", 44_100, {}),
    "air.ts": ("libx264", "aac", 48_000, {}),
}


def write(path: Path, picture: str, sound: str, rate: int, options: dict[str, str]) -> None:
    """A small good video: moving noise, and a sound that is different at every moment."""
    import av

    rng = np.random.default_rng(5)
    time = np.arange(SECONDS * rate) / rate
    wave = 0.3 * np.sin(2 * np.pi * (200 + 30 * time) * time) + np.interp(time, np.arange(0, 6, 5e-3),
                                                                        rng.normal(0, 0.05, 1_200))
    with av.open(str(path), "w", options=options) as file:
        video: Any = file.add_stream(picture, rate=8)
        audio: Any = file.add_stream(sound, rate=rate)
        video.width, video.height, video.pix_fmt, audio.layout = 64, 48, "yuv420p", "mono"
        video.codec_context.thread_count, audio.bit_rate = 1, 96_000
        form = av.AudioResampler(audio.format, "mono", rate)
        for second in range(SECONDS):
            for number in range(8 * second, 8 * second + 8):
                noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(np.kron(noise, np.ones((8, 8, 1), np.uint8)), "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 8)
                file.mux(video.encode(frame))
            for at in range(second * rate, second * rate + rate, rate // 25):
                part = np.round(wave[None, at:at + rate // 25] * 32_767).astype(np.int16)
                heard = av.AudioFrame.from_ndarray(part, "s16", "mono")
                heard.sample_rate, heard.pts, heard.time_base = rate, at, Fraction(1, rate)
                for one in form.resample(heard):
                    file.mux(audio.encode(one))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))


def examine(path: str) -> dict[str, Any]:
    """What prep makes of a file: its rows, and the sound that it would keep, by the second where it starts."""
    sound = None
    try:
        video = decode_video(path, 32, CONFIG)
        sound = video.sound
        rows, arrays = cut_chunks(video, CONFIG)
    except BadVideo as reason:
        rows, arrays = [{"start": 0.0, "status": str(reason)}], {}
    kept = [row["start"] for row in rows if row["status"] == "kept"]
    return {"statuses": [row["status"] for row in rows], "kept": dict(zip(kept, arrays.get("audio", []), strict=True)),
            "sound": sound, "memory": peak()}


def peak() -> float:
    """The most memory that this process ever held, in MB; getrusage would count its parent's, before the exec."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1_000
    held = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(held.split()[1]) / 1_000


def serve(pipe: Any) -> None:
    import torch

    torch.set_num_threads(1)
    pipe.send("ready")
    while True:
        pipe.send(examine(pipe.recv()))


class Child:
    """A process that examines one file after the other, until one of them kills it or takes too long."""

    def __init__(self) -> None:
        self.process: Any = None

    def __call__(self, path: Path) -> dict[str, Any]:
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=serve, args=(theirs,), daemon=True)
            self.process.start()
            theirs.close()
            assert self.pipe.recv() == "ready"
        self.pipe.send(str(path))
        waited = self.pipe.poll(LIMIT)
        try:
            return self.pipe.recv() if waited else self._end(f"it takes over {LIMIT} s")
        except EOFError:
            return self._end("it kills the process")

    def _end(self, why: str) -> dict[str, Any]:
        self.process.kill()
        self.process.join()
        code, self.process = self.process.exitcode, None
        return {"statuses": [], "kept": {}, "memory": 0, "failed": f"{why} ({code})"}


@dataclass
class Case:
    """A damaged file."""

    name: str
    good: str  # the file it was made from; "" for something else altogether
    content: bytes
    packets: int = 0  # packets of sound whose payload was touched


def sound_packets(path: Path) -> list[tuple[int, int]]:
    """Where the sound lies in a file: from byte, to byte."""
    import av

    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        return [(p.pos, p.pos + p.size) for p in file.demux(stream) if p.size and p.pos is not None]


def flip(good: bytes, positions: np.ndarray, rng: np.random.Generator) -> bytes:
    changed = np.frombuffer(good, np.uint8).copy()
    changed[positions] ^= (1 << rng.integers(0, 8, len(positions))).astype(np.uint8)
    return changed.tobytes()


def flipped(folder: Path) -> Iterator[Case]:
    """A few flipped bits, or many, at the beginning, in the middle, at the end or everywhere."""
    for number, name in enumerate(FORMATS):
        good = (folder / name).read_bytes()
        spans, size = np.array(sound_packets(folder / name)), len(good)
        regions = {"head": (0, min(1_500, size // 4)), "middle": (size // 3, size // 2),
                   "tail": (size - min(3_000, size // 4), size), "all": (0, size)}
        for (where, (begin, end)), count in ((r, c) for r in regions.items() for c in (1, 12, 200)):
            rng = np.random.default_rng([number, begin, end, count])
            positions = np.unique(rng.integers(begin, end, count))
            touched = ((spans[:, :1] <= positions) & (positions < spans[:, 1:])).any(1).sum()
            yield Case(f"{name} {count} flips in {where}", name, flip(good, positions, rng), int(touched))


def truncated(folder: Path) -> Iterator[Case]:
    for name in FORMATS:
        good = (folder / name).read_bytes()
        cuts = {1, 8, 40, len(good) // 10, len(good) // 3, len(good) // 2, len(good) * 9 // 10, len(good) - 1}
        boxes = [good.find(b"moov") + 4, good.find(b"moov") + 100, good.find(b"mdat") + 4] if b"moov" in good else []
        for cut in sorted(cuts | set(boxes)):
            yield Case(f"{name} cut at {cut}", name, good[:cut])


def lying(folder: Path) -> Iterator[Case]:
    """Headers with impossible numbers: durations of years, a clock without ticks, a million channels."""
    for name in ("first.mp4", "plain.mov"):
        good = (folder / name).read_bytes()
        for box in (b"moov", b"mvhd", b"tkhd", b"mdhd", b"elst", b"stts", b"stsz", b"stsd", b"esds", b"mp4a", b"avc1"):
            at = good.rfind(box)
            if at < 0 or name == "plain.mov" and box not in (b"mdhd", b"stts", b"elst"):
                continue
            for word, value in ((-2, 0xFFFFFFFF), (0, 0xFFFFFFFF), (1, 0), (2, 0x7FFFFFFF), (3, 0xFFFFFFFF),
                                (3, 0), (4, 0xFFFFFFFF), (6, 0x00010000), (7, 0xFFFF0000)):
                begin = at + 4 + 4 * word
                content = good[:begin] + struct.pack(">I", value) + good[begin + 4:]
                if content != good:
                    yield Case(f"{name} {box.decode()}[{word}] = {value:#x}", name, content)


def strange(folder: Path) -> Iterator[Case]:
    """Other things that call themselves x.mp4, and good files put together wrongly."""
    rng = np.random.default_rng(3)
    first, stream, web = ((folder / name).read_bytes() for name in ("first.mp4", "air.ts", "web.webm"))
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("first.mp4", first[:20_000])
    pixels = b"\x89PNG\r\n\x1a\n" + rng.bytes(4_000)
    others = {
        "empty": b"", "one byte": b"\0", "zeros": bytes(100_000), "ones": b"\xff" * 100_000,
        "noise": rng.bytes(100_000), "text": b"not a video, but a long text\n" * 2_000, "picture": pixels,
        "photo": b"\xff\xd8\xff\xe0" + rng.bytes(9_000), "archive": archive.getvalue(),
        "document": b"%PDF-1.7\n" + rng.bytes(9_000), "page": b"<!doctype html><p>gone" * 99,
        "playlist": b"#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\nfirst.mp4\n#EXT-X-ENDLIST\n",
        "remote": b"#EXTM3U\n#EXTINF:6,\nhttp://127.0.0.1:9/x.mp4\n#EXT-X-ENDLIST\n",
        "script": b"ffconcat version 1.0\nfile first.mp4\n", "sums": first[:4_000] + rng.bytes(4_000),
        "wave": b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\xff\xff\xff\xff\xff\xff" + rng.bytes(9_000),
    }
    for name, content in others.items():
        yield Case(name, "", content)
    half = len(first) // 2
    yield Case("first.mp4 twice", "first.mp4", first + first)
    yield Case("air.ts twice", "air.ts", stream + stream)
    yield Case("web.webm twice", "web.webm", web + web)
    yield Case("first.mp4, halves exchanged", "first.mp4", first[half:] + first[:half])
    yield Case("first.mp4, backwards", "first.mp4", first[::-1])
    yield Case("air.ts, a hole", "air.ts", stream[:188 * 200] + stream[188 * 400:])
    yield Case("air.ts, out of step", "air.ts", stream[100:])
    yield Case("web.webm in first.mp4", "first.mp4", first[:half] + web)


def differing(sound: np.ndarray, start: float, good: np.ndarray) -> int:
    """How many tenths of a second of a chunk are not the good file's, wherever within 0.3 s its clock begins."""
    begin, room = round(start * 16_000), 4_800
    around = np.pad(good.astype(float), room)[begin:begin + len(sound) + 2 * room]
    around = np.pad(around, (0, len(sound) + 2 * room - len(around)))
    size = 1 << 17
    match = np.fft.irfft(np.fft.rfft(around, size) * np.conj(np.fft.rfft(sound.astype(float), size)), size)
    at = int(match[:2 * room].argmax())
    error = (around[at:at + len(sound)] - sound).reshape(-1, 1_600)
    return int((np.sqrt((error**2).mean(1)) > 0.03 * 32_767).sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("good")
    for name, about in FORMATS.items():
        write(made / name, *about)
    return made


@pytest.fixture(scope="module")
def child() -> Iterator[Child]:
    one = Child()
    yield one
    if one.process is not None:
        one.process.kill()
        one.process.join()


@pytest.fixture(scope="module")
def good(folder: Path, child: Child) -> dict[str, dict[str, Any]]:
    results = {name: child(folder / name) for name in FORMATS}
    for name, result in results.items():
        assert result["statuses"] == ["kept"] * 3, name
    return results


def allowed(case: Case, start: float) -> int:
    """The tenths of a second of a kept chunk that may differ: what nobody can know.

    - A packet of sound whose own bits were flipped: it and its overlap with the neighbours reach into three tenths.
    - A lost first or last packet: only the header knows of it, and the header is damaged. A file that breaks off may
      lack the tenth of a second at its end by which containers round (`video.SLACK`).
    - An edit list says which part of the sound is to be heard. It is believed, as a player believes it.
    """
    if " elst[" in case.name:
        return 20
    return 3 * case.packets + (2 if start == 0 or start == SECONDS - CONFIG.chunk_seconds else 1)


@pytest.mark.parametrize("kind", [flipped, truncated, lying, strange])
def test_damage_is_found(kind: Callable[[Path], Iterator[Case]], folder: Path, child: Child,
                         good: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Each file ends in time, in bounded memory, with words from the list; what is kept is the good file's sound."""
    wrong, number = [], 0
    for case in kind(folder):
        number += 1
        bad = tmp_path / "bad.mp4"
        bad.write_bytes(case.content)
        (tmp_path / "first.mp4").write_bytes((folder / "first.mp4").read_bytes())  # what a playlist would find
        found = child(bad)
        if "failed" in found:
            wrong.append(f"{case.name}: {found['failed']}")
        elif not found["statuses"] or not set(found["statuses"]) <= set(STATUSES) or found["memory"] > MEMORY:
            wrong.append(f"{case.name}: {found['statuses']}, {found['memory']:.0f} MB")
        for start, sound in found["kept"].items():
            differ = differing(sound, start, good[case.good]["sound"]) if case.good else 99
            if differ > allowed(case, start):
                wrong.append(f"{case.name}: {differ} tenths of the chunk at {start} s are not the file's")
        assert sorted(os.listdir(tmp_path)) == ["bad.mp4", "first.mp4"] and bad.read_bytes() == case.content
    assert not wrong and number >= 20, "\n".join(wrong)


def test_a_file_that_breaks_off_says_so(folder: Path, child: Child, tmp_path: Path) -> None:
    """Where the header knows how long the sound should be, the missing end has a row."""
    content = (folder / "first.mp4").read_bytes()
    (tmp_path / "x.mp4").write_bytes(content[:len(content) * 7 // 10])
    found = child(tmp_path / "x.mp4")["statuses"]
    assert found[:2] == ["kept", "kept"] and found[2:] == ["damaged"]


def test_checksums_are_read(folder: Path, child: Child, good: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """FLAC has a checksum in each packet: there, no flipped bit at all passes."""
    content, rng = (folder / "sums.mkv").read_bytes(), np.random.default_rng(8)
    spans = sound_packets(folder / "sums.mkv")
    for begin, end in spans[5:50:9]:
        (tmp_path / "x.mkv").write_bytes(flip(content, rng.integers(begin + 20, end - 4, 1), rng))
        found = child(tmp_path / "x.mkv")
        assert "damaged" in found["statuses"]
        assert all(not differing(sound, start, good["sums.mkv"]["sound"]) for start, sound in found["kept"].items())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_or_a_folder_is_no_video(child: Child, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("pipe.mp4", "folder.mp4"):
        assert child(tmp_path / name)["statuses"] == ["corrupt"]
