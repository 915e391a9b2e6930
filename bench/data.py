"""Prep beside the usual pipeline, on the same files in the same run, and how prep grows: bench/results/data.json.

The usual pipeline is one Python loop: ffmpeg writes a wav, ffmpeg writes a folder of jpgs, librosa resamples and
makes the mel, CLIP (open_clip) sees one picture at a time. Ours is clipsynth.data.prep. Both get clips as
VGG-Sound has them: 10 seconds, 340x256 pixels, 25 frames a second, H.264, stereo AAC at 44.1 kHz, made here from one
seed. The weights of ViT-B/32 are random, since only time is measured. 00_data shows the results.

Usage: python bench/data.py [--clips 100] [--many 1000] [--only compare]      (about 10 minutes on two quiet cores;
needs ffmpeg on the PATH)
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from timing import machine, save, spent

from clipsynth.base.hashing import numpy_rng
from clipsynth.data import chunks, frames, shards, video
from clipsynth.data.assemble import assemble
from clipsynth.data.embedding import embed
from clipsynth.data.frames import clip_picture
from clipsynth.data.lists import Video
from clipsynth.data.shards import make_shard, make_shards, plan_shards
from clipsynth.data.soundtrack import Resampled
from clipsynth.data.store import Store
from clipsynth.data.workers import cores
from clipsynth.model.audio import AUDIO, HIGH, LOW, log_mel
from clipsynth.model.query import QueryEncoder

RESULTS = Path(__file__).parent / "results" / "data.json"
RATE, SECONDS, FPS, SIZE = 44_100, 10, 25, 224
HEIGHT, WIDTH = 256, 340


def pictures(seed: int):
    """A textured picture that pans and flickers: neither trivial nor impossible to compress."""
    rng = numpy_rng("bench pictures", seed)
    large = rng.integers(0, 256, (HEIGHT // 4 + 40, WIDTH // 4 + 80, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    for index in range(SECONDS * FPS):
        down, right = int(40 + 39 * np.sin(index / 30)), index
        noise = rng.integers(-12, 13, (HEIGHT, WIDTH, 1))
        view = large[down : down + HEIGHT, right : right + WIDTH].astype(np.int16) // 2 + 60
        yield np.clip(view + noise, 0, 255).astype(np.uint8)


def sound(seed: int) -> np.ndarray:
    """Two channels of tones over noise, (2, samples)."""
    rng, time_axis = numpy_rng("bench sound", seed), np.arange(SECONDS * RATE) / RATE
    tones = sum(np.sin(2 * np.pi * f * time_axis + p) for f, p in rng.uniform((80, 0), (6_000, 6), (8, 2)))
    return (0.05 * tones + rng.normal(0, 0.05, (2, len(time_axis)))).astype(np.float32)


def write_clip(path: Path, seed: int) -> None:
    """One clip as a video site would serve it."""
    import av

    with av.open(str(path), "w") as container:
        images = container.add_stream("libx264", rate=FPS)
        images.width, images.height, images.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        images.options = {"preset": "veryfast", "crf": "26"}
        track = container.add_stream("aac", rate=RATE, layout="stereo")
        for picture in pictures(seed):
            container.mux(images.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(images.encode(None))
        wave = sound(seed)
        for start in range(0, wave.shape[1], 1024):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave[:, start : start + 1024]), "fltp", "stereo")
            frame.sample_rate, frame.pts = RATE, start
            container.mux(track.encode(frame))
        container.mux(track.encode(None))


# ---- the usual pipeline


def run(*words: object) -> None:
    subprocess.run(["ffmpeg", "-v", "error", "-y", *map(str, words)], check=True, stdin=subprocess.DEVNULL)


def usual_sound(path: Path, folder: Path) -> np.ndarray:
    """16-bit mono at 16 kHz by way of a wav file."""
    import librosa

    run("-i", path, "-vn", "-c:a", "pcm_f32le", folder / "sound.wav")
    wave, _ = librosa.load(folder / "sound.wav", sr=AUDIO.sample_rate, mono=True)
    return np.round(np.clip(wave.astype(np.float64), -1, 1) * 32_767).astype(np.int16)


def usual_mel(samples: np.ndarray, kind: type = np.float32) -> np.ndarray:
    """librosa's mel at HiFi-GAN's settings, of the first 10 seconds, in single or double precision."""
    import librosa

    length, margin = SECONDS * AUDIO.sample_rate, (AUDIO.n_fft - AUDIO.hop) // 2
    wave = np.zeros(length, kind)
    wave[: len(samples)] = samples[:length].astype(kind) / 32_767
    padded = np.pad(wave, margin, mode="reflect")
    spectrum = librosa.stft(padded, n_fft=AUDIO.n_fft, hop_length=AUDIO.hop, center=False)
    magnitude = np.sqrt(np.abs(spectrum) ** 2 + 1e-9)
    bank = librosa.filters.mel(sr=AUDIO.sample_rate, n_fft=AUDIO.n_fft, n_mels=AUDIO.mels, fmax=AUDIO.f_max)
    return np.log(np.maximum(bank @ magnitude, 1e-5))


def usual(path: Path, folder: Path) -> None:
    """Sound, mel and frames of one clip the usual way."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    np.save(folder / "mel.npy", usual_mel(usual_sound(path, folder)))
    run("-i", path, "-vf", "fps=1", "-q:v", "2", folder / "%06d.jpg")


def usual_clip(folder: Path, model, transform) -> None:
    """The embeddings of those frames, one at a time."""
    from PIL import Image

    with torch.no_grad():
        pictures = [transform(Image.open(picture))[None] for picture in sorted(folder.glob("*.jpg"))]
        np.save(folder / "clip.npy", torch.cat([model.encode_image(picture) for picture in pictures]).numpy())


# ---- ours, stage by stage


@contextmanager
def timed(totals: dict[str, float], places: dict[str, tuple[object, str]]):
    """Add up the time that is spent inside some functions; inner ones are taken off the outer."""
    stack: list[float] = []
    old = {name: getattr(*place) for name, place in places.items()}

    def wrap(name, function):
        def inner(*words, **named):
            stack.append(0.0)
            began = time.perf_counter()
            try:
                return function(*words, **named)
            finally:
                spent = time.perf_counter() - began
                totals[name] = totals.get(name, 0.0) + spent - stack.pop()
                if stack:
                    stack[-1] += spent

        return inner

    try:
        for name, (owner, attribute) in places.items():
            setattr(owner, attribute, wrap(name, old[name]))
        yield
    finally:
        for name, (owner, attribute) in places.items():
            setattr(owner, attribute, old[name])


PLACES = {
    "decode": (video, "decode_video"),
    "resample": (Resampled, "resample"),
    "frames": (frames, "picture_of"),
    "cut": (shards, "cut_chunks"),
    "mel": (chunks, "log_mel"),
    "write": (shards, "write_shard"),
}


def stages(jobs: list) -> dict[str, float]:
    """Core-seconds for one chunk, by stage, in this process with one thread."""
    totals: dict[str, float] = {}
    torch.set_num_threads(1)
    make_shard(jobs[0])  # warm
    with timed(totals, PLACES | {"open": (shards, "decode_video")}):
        for job in jobs:
            make_shard(job)
    totals["decode"] = totals.pop("open") + totals.pop("decode", 0.0)
    torch.set_num_threads(cores())
    return {name: totals[name] / len(jobs) for name in ("decode", "resample", "mel", "frames", "cut", "write")}


def jobs_of(videos: Path, folder: Path, names: list[str]) -> list:
    """The plan of a list, without a list file."""
    return plan_shards([Video(name, "") for name in names], videos, folder, SIZE)


def ours(videos: Path, folder: Path, names: list[str], size: int) -> float:
    """Seconds for shards and store, the start of the workers included."""
    shutil.rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    listed = [Video(name, "") for name in names]
    jobs = plan_shards(listed, videos, folder, size)
    make_shards(jobs, workers=cores())
    assemble(listed, jobs, folder)
    return time.perf_counter() - began


# ---- is it the same?


def differences(paths: list[Path], store: Store, folder: Path) -> dict[str, float]:
    """The largest difference of any mel value, and of frames that ffmpeg picked by number."""
    from PIL import Image

    mel, frame, mean = 0.0, 0, 0.0  # 1 in 3,000 samples falls on the other side of 16-bit rounding
    numbers = [FPS * second + FPS // 2 for second in range(SECONDS)]
    wanted = "+".join(f"eq(n\\,{number})" for number in numbers)
    for index, path in enumerate(paths):
        folder.mkdir(exist_ok=True)
        wave = torch.from_numpy(store.waveform(index))
        exact = usual_mel(usual_sound(path, folder), np.float64)
        mel = max(mel, float(np.abs(log_mel(wave).numpy() - exact).max()))
        run("-i", path, "-vf", f"select={wanted}", "-fps_mode", "passthrough", folder / "%02d.png")
        theirs = [np.asarray(Image.open(p).convert("RGB")) for p in sorted(folder.glob("*.png"))]
        cut = np.stack([clip_picture(picture, SIZE) for picture in theirs]).astype(int)
        gap = np.abs(cut - store.frames[index])
        frame, mean = max(frame, int(gap.max())), max(mean, float(gap.mean()))
        shutil.rmtree(folder)
    return {"mel": mel, "mel of [-1, 1]": mel * 2 / (HIGH - LOW), "frame": frame, "frame_mean": round(mean, 3)}


# ---- how it grows


class Memory:
    """The largest resident set among the workers, sampled while clips are done."""

    def __init__(self):
        self.done, self.rows, self.over = 0, [], False
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def watch(self) -> None:
        import psutil

        me = psutil.Process()
        while not self.over:
            sizes = [0]
            for child in me.children():
                try:
                    sizes.append(child.memory_info().rss)
                except psutil.Error:
                    pass
            self.rows.append((self.done, max(sizes) / 1e6))
            time.sleep(0.25)

    def __call__(self, name: str, status: str) -> None:
        self.done += 1

    def table(self, points: int = 21) -> dict[str, list]:
        clips = np.linspace(0, self.done, points).astype(int)
        spans = zip(clips[:-1], clips[1:], strict=True)
        peaks = [max([m for d, m in self.rows if low <= d <= high] or [np.nan]) for low, high in spans]
        return {"clips": clips[1:].tolist(), "megabytes": [round(float(peak)) for peak in peaks]}


def shards_only(videos: Path, folder: Path, names: list[str], workers: int, watch=None) -> tuple[float, float]:
    """Seconds to make the shards of some clips, and shards per second once the workers have started."""
    shutil.rmtree(folder, ignore_errors=True)
    jobs, ends = jobs_of(videos, folder, names), [time.perf_counter()]

    def done(name: str, status: str) -> None:
        ends.append(time.perf_counter())
        if watch:
            watch(name, status)

    make_shards(jobs, workers=workers, callback=done)
    warm = ends[2 * workers :]
    return ends[-1] - ends[0], (len(warm) - 1) / (warm[-1] - warm[0])


def random_clip(folder: Path):
    """ViT-B/32 with random weights, as open_clip's user would build it and as our encoder."""
    import open_clip

    torch.manual_seed(0)
    model, _, transform = open_clip.create_model_and_transforms("ViT-B-32", pretrained=None)
    torch.save(model.state_dict(), folder / "clip.pt")
    return model.eval(), transform, QueryEncoder(f"ViT-B-32:{folder / 'clip.pt'}")


def mini_clip():
    """The same two of MiniCLIP."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    encoder = QueryEncoder("mini")
    return encoder.model, image_transform_v2(PreprocessCfg(**encoder.preprocess), is_train=False), encoder


def compare(room: Path, videos: Path, names: list[str]) -> dict:
    """Stages, both pipelines, and whether they say the same."""
    paths = [videos / f"{name}.mp4" for name in names]
    few = names[: max(2, len(names) // 5)]  # ViT-B/32 takes its time
    size = sum(path.stat().st_size for path in paths) / len(names) / 1e6
    result = {"megabytes": round(size, 3), "stages": stages(jobs_of(videos, room / "stages", names))}
    print(result, flush=True)
    large, mini, folder = random_clip(room), mini_clip(), room / "usual"
    usual(paths[0], folder)  # warm
    usual_clip(folder, *large[:2]), usual_clip(folder, *mini[:2])
    theirs = {"prep": 0.0, "mini": 0.0, "large": 0.0}  # seconds for one clip
    for path in paths:
        theirs["prep"] += spent(usual, path, folder) / len(names)
        theirs["mini"] += spent(usual_clip, folder, *mini[:2]) / len(names)
        theirs["large"] += spent(usual_clip, folder, *large[:2]) / len(few) if path.stem in few else 0.0
    mine = {"small": ours(videos, room / "small", names, 64) / len(names)}
    mine["mini"] = spent(embed, Store(room / "small"), mini[2]) / len(names)
    mine["prep"] = ours(videos, room / "ours", names, SIZE) / len(names)
    ours(videos, room / "few", few, SIZE)
    mine["large"] = spent(embed, Store(room / "few"), large[2]) / len(few)
    result["stages"]["clip"] = mine["large"] * cores()
    pairs = {
        "sound, mel and frames": (theirs["prep"], mine["prep"]),
        "and MiniCLIP": (theirs["prep"] + theirs["mini"], mine["small"] + mine["mini"]),
        "and ViT-B/32 on this CPU": (theirs["prep"] + theirs["large"], mine["prep"] + mine["large"]),
    }
    result["comparison"] = [
        {"what": what, "usual (clips/s)": f"{1 / a:.2f}", "ours (clips/s)": f"{1 / b:.2f}", "times": f"{a / b:.1f}"}
        for what, (a, b) in pairs.items()
    ]
    result["same"] = differences(paths[:10], Store(room / "ours"), room / "compare")
    print(result, flush=True)
    return result


def grow(room: Path, videos: Path, many: int) -> dict:
    """Time against clips and workers, and memory over many clips."""
    there, workers = sorted(videos.iterdir()), cores()
    for index in range(len(there), many):
        os.link(there[index % len(there)], videos / f"clip-{index:05d}.mp4")
    names = sorted(path.stem for path in videos.iterdir())
    few = [len(names) // 8, len(names) // 4, len(names) // 2]
    by_workers: dict[str, list] = {"workers": [], "clips_per_second": []}
    for count in (1, 2, 4):
        _, rate = shards_only(videos, room / "growth", names[: few[0]], count)
        by_workers["workers"].append(count)
        by_workers["clips_per_second"].append(round(rate, 2))
    by_clips: dict[str, list] = {"clips": [], "seconds": []}
    memory = Memory()
    for count in (*few, len(names)):
        last = count == len(names)
        memory.thread.start() if last else None
        took, _ = shards_only(videos, room / "growth", names[:count], workers, memory if last else None)
        by_clips["clips"].append(count)
        by_clips["seconds"].append(round(took, 2))
    memory.over = True
    result = {"by_workers": by_workers, "by_clips": by_clips, "memory": memory.table()}
    print(result, flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=100, help="for the comparison")
    parser.add_argument("--many", type=int, default=1_000, help="for memory and growth")
    parser.add_argument("--only", choices=("compare", "grow"), help="measure a part, keep the other results")
    options = parser.parse_args()
    if not shutil.which("ffmpeg"):
        sys.exit("bench/data.py compares with ffmpeg: put it on the PATH")
    os.environ["CLIPSYNTH_QUIET"] = "1"
    result = json.loads(RESULTS.read_text()) if options.only and RESULTS.exists() else {}
    result |= machine()
    with tempfile.TemporaryDirectory() as name:
        room, videos = Path(name), Path(name, "videos")
        videos.mkdir()
        for index in range(options.clips):
            write_clip(videos / f"clip-{index:05d}.mp4", index)
        names = sorted(path.stem for path in videos.iterdir())
        if options.only in (None, "compare"):
            result |= compare(room, videos, names)
        if options.only in (None, "grow"):
            result |= grow(room, videos, options.many)
    save(RESULTS, result)


if __name__ == "__main__":
    main()
