"""Evaluation of many sounds: bench/results/folders.json, which results/folders shows.

Short flac files (4.1 seconds of tones in noise) are written to a temporary folder, some hundreds of different ones, and
each under many names. Then they are measured as `clipsynth eval` does it: a tenth of them in one process, all in one
process, all in two, and the finished ones once more. Last, 100,000 embeddings like those of the test set are scored
with intervals. Each in a fresh process of one thread. On a machine with other work the wall's clock says little: CPU
seconds are those of all processes together.

Usage: python bench/folders.py [--clips 10000] [--embeddings 100000]      (10 minutes on two busy cores)
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from timing import in_fresh_process, machine, save

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import progress, threads
from clipsynth.base.profiles import MINI
from clipsynth.data.sounds import sound_files
from clipsynth.engine.runlog import peak_memory
from clipsynth.results.bench import Bench
from clipsynth.results.folders import measure_folder, own_groups
from clipsynth.results.scores import score
from clipsynth.results.test_set import reference

RESULTS = Path(__file__).parent / "results" / "folders.json"
DIFFERENT, RATE, SECONDS = 500, 16_000, 4.1
KINDS = ("audio", "mel", "heard", "seen", "second_heard", "second_seen")


def write_sounds(folder: Path, count: int) -> Path:
    """Flac files, the first ones different, the others further names of these."""
    folder.mkdir()
    clock = np.arange(round(RATE * SECONDS)) / RATE
    for number in progress(range(count), "sounds", count):
        path = folder / f"{number:06}.flac"
        if number >= DIFFERENT:
            os.link(folder / f"{number % DIFFERENT:06}.flac", path)
            continue
        rng = numpy_rng("bench folders", number)
        tones = np.sin(2 * np.pi * rng.uniform(80, 4_000, (6, 1)) * clock).sum(0)
        soundfile.write(path, 0.05 * tones + rng.normal(0, 0.01, len(clock)), RATE)
    return folder


def measured(folder: str, data: str, workers: int) -> int:
    """Measure a folder as `clipsynth eval` does."""
    os.environ["CLIPSYNTH_DATA"] = data
    found = measure_folder(Bench(MINI, "mini-music"), sound_files(folder), device="cpu", workers=workers)
    assert found is not None
    return len(found["heard"])


def scored(count: int) -> int:
    """Score embeddings like those of the test set, each on its own, as `score_folder` does."""
    real, rng = reference(Bench(MINI, "mini-music")), numpy_rng("bench folders", count)
    pick = rng.integers(len(real["label"]), size=count)
    some = {name: real[name][pick] for name in KINDS}
    for kind in ("audio", "mel"):
        some[kind] = (some[kind] + rng.normal(0, 0.3, some[kind].shape)).astype(np.float16)
    label = real["label"][pick]
    score(some, label, own_groups(label), real, MINI.eval.bootstrap, same_videos=False)
    return count


def child(work: str, **words: object) -> None:
    """Do one thing in this fresh process, and tell what it took."""
    began, computed = time.perf_counter(), time.process_time()
    with threads(1):
        count = {"measured": measured, "scored": scored}[work](**words)
    seconds, workers = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() - computed + workers.ru_utime + workers.ru_stime
    peak = max(1e3 * peak_memory(torch.device("cpu")), workers.ru_maxrss / 1e3)  # MB, of the largest process
    rate = {"seconds": seconds, "CPU seconds": cpu, "sounds per CPU second": count / cpu, "peak MB": peak}
    print(json.dumps({"sounds": count, **rate}))


def main() -> None:
    """Write the sounds, measure, score, and keep what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--embeddings", type=int, default=100_000)
    asked = parser.parse_args()
    here = Path(tempfile.mkdtemp())
    try:
        few, all_of_them = (write_sounds(here / f"{n}", n) for n in (asked.clips // 10, asked.clips))
        plans = [("measured by one process", few, "a", 0), ("measured by one process", all_of_them, "a", 0),
                 ("measured by two workers", all_of_them, "b", 2), ("read again", all_of_them, "b", 2)]
        rows = []
        for what, folder, data, workers in plans:
            words = {"work": "measured", "folder": str(folder), "data": str(here / data), "workers": workers}
            rows.append({"what": what, **in_fresh_process(__file__, **words)})
            print(rows[-1], flush=True)
        same = [sorted(path.read_bytes() for path in (here / data).rglob("*.safetensors")) for data in "ab"]
        assert set(same[1]) <= set(same[0]), "two workers keep other bytes than one process"
        kept = max(map(len, same[1])) / asked.clips
        rows.append({"what": "scored, with intervals",
                     **in_fresh_process(__file__, work="scored", count=asked.embeddings)})
        print(rows[-1], flush=True)
    finally:
        shutil.rmtree(here)
    save(RESULTS, {"rows": rows, "bytes kept of a sound": kept, **machine()})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(**json.loads(sys.argv[2]))
    else:
        main()
