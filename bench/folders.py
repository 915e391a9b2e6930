"""Evaluation of many sounds: bench/results/folders.json, which results/folders shows.

Short flac files (4.1 seconds of tones in noise) are written to a temporary folder, some hundreds of different ones, and
each under many names. Then they are measured as `clipsynth eval` does it: a tenth of them in one process, all in one
process, all in two, and the finished ones once more. 100,000 embeddings like those of the test set are scored with
intervals. Last, the whole command for 100,000 files of one second, from their names to the row. Each in a fresh process
of one thread. On a machine with other work the wall's clock says little: CPU seconds are those of all processes
together.

Usage: python bench/folders.py [--clips 10000] [--embeddings 100000] [--whole 100000]     (an hour on two busy cores)

A part with 0 is left out, and what was measured of it before stays: --clips 0 --embeddings 0 does the last alone.
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
from clipsynth.results.folders import measure_folder, own_groups, score_folder
from clipsynth.results.scores import score
from clipsynth.results.test_set import reference

RESULTS = Path(__file__).parent / "results" / "folders.json"
DIFFERENT, RATE, SECONDS, SHORT = 500, 16_000, 4.1, 1.0
SCORED, WHOLE = "scored, with intervals", "the whole command, files of 1 s"
KINDS = ("audio", "mel", "heard", "seen", "second_heard", "second_seen")


def write_sounds(folder: Path, count: int, seconds: float = SECONDS) -> Path:
    """Flac files, the first ones different, the others further names of these."""
    folder.mkdir()
    clock = np.arange(round(RATE * seconds)) / RATE
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


def whole(folder: str, data: str) -> int:
    """All that `clipsynth eval --pad --workers 0` does: find the files, measure, score with intervals."""
    os.environ["CLIPSYNTH_DATA"] = data
    found = score_folder(folder, "mini-music", pad=True, device="cpu", workers=0)
    assert found is not None and found.padded == found.sounds
    return found.sounds


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
        count = {"measured": measured, "scored": scored, "whole": whole}[work](**words)
    seconds, workers = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = time.process_time() - computed + workers.ru_utime + workers.ru_stime
    peak = max(1e3 * peak_memory(torch.device("cpu")), workers.ru_maxrss / 1e3)  # MB, of the largest process
    rate = {"seconds": seconds, "CPU seconds": cpu, "sounds per CPU second": count / cpu, "peak MB": peak}
    print(json.dumps({"sounds": count, **rate}))


def by_parts(here: Path, clips: int) -> tuple[list[dict[str, object]], float]:
    """A tenth of the files in one process, all in one, all in two, and again; and the bytes kept of a sound."""
    few, all_of_them = (write_sounds(here / f"{n}", n) for n in (clips // 10, clips))
    plans = [("measured by one process", few, "a", 0), ("measured by one process", all_of_them, "a", 0),
             ("measured by two workers", all_of_them, "b", 2), ("read again", all_of_them, "b", 2)]
    rows = []
    for what, folder, data, workers in plans:
        words = {"work": "measured", "folder": str(folder), "data": str(here / data), "workers": workers}
        rows.append({"what": what, **in_fresh_process(__file__, **words)})
        print(rows[-1], flush=True)
    same = [sorted(path.read_bytes() for path in (here / data).rglob("*.safetensors")) for data in "ab"]
    assert set(same[1]) <= set(same[0]), "two workers keep other bytes than one process"
    return rows, max(map(len, same[1])) / clips


def main() -> None:
    """Write the sounds, measure, score, and keep what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--embeddings", type=int, default=100_000)
    parser.add_argument("--whole", type=int, default=100_000)
    asked = parser.parse_args()
    kept = json.loads(RESULTS.read_text())
    parts = {row["what"]: [old for old in kept["rows"] if old["what"] == row["what"]] for row in kept["rows"]}
    here = Path(tempfile.mkdtemp())
    try:
        if asked.clips:
            rows, kept["bytes kept of a sound"] = by_parts(here, asked.clips)
            parts |= {row["what"]: [new for new in rows if new["what"] == row["what"]] for row in rows}
        if asked.embeddings:
            row = in_fresh_process(__file__, work="scored", count=asked.embeddings)
            parts[SCORED] = [{"what": SCORED, **row}]
            print(parts[SCORED], flush=True)
        if asked.whole:
            folder = write_sounds(here / "whole", asked.whole, SHORT)
            row = in_fresh_process(__file__, work="whole", folder=str(folder), data=str(here / "c"))
            parts[WHOLE] = [{"what": WHOLE, **row}]
            print(parts[WHOLE], flush=True)
    finally:
        shutil.rmtree(here)
    save(RESULTS, {**kept, "rows": [row for rows in parts.values() for row in rows], **machine()})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(**json.loads(sys.argv[2]))
    else:
        main()
