"""How often do the intervals of `results.metrics` hold the true distance, on sets shaped like the two test sets?

Classes, videos and windows are those of `data/records/*/real-test`, class centres and covariances (between videos of
a class, within a video) are estimated from its embeddings, and so is how much classes differ in spread. Then sets are
drawn from normal distributions with these parameters: 512 trials that ask about random windows, answered by a model
whose true distance is known. Old (40 runs): an interval around the value, from half-samples, as was printed before.

Usage: python bench/interval_coverage.py [runs [dataset]]      (100 runs: some 15 minutes on one free core)
Results go to bench/results/interval_coverage.json, which results/distance_intervals shows.
"""

import json
import sys
from pathlib import Path

import numpy as np

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import threads
from clipsynth.base.records import read_record
from clipsynth.results.distance_intervals import distance_interval
from clipsynth.results.distances import frechet_distances
from clipsynth.results.intervals import interval

ROOT = Path(__file__).parents[1]
SHARED = {"text": None, "pictures, all shared": 1.0, "pictures, half shared": 0.5, "pictures, none shared": 0.0}
CHANGES = {"none": 0.0, "small": 0.15, "medium": 0.3, "large": 0.6}  # the large one: FAD of some 35


def root_of(cov):
    values, axes = np.linalg.eigh(cov)
    return axes * np.sqrt(np.maximum(values, 0))


class World:
    """A population like the real test sound of a dataset, and systems at a known distance from it."""

    def __init__(self, dataset, kind="audio"):
        folder = ROOT / "data" / "records" / dataset
        real, train = (read_record(folder / f"real-{split}.safetensors").arrays for split in ("test", "train"))
        rows, label = real[kind].astype(float), real["label"]
        self.label, self.video = (np.unique(v, return_inverse=True)[1] for v in (label, real["video"]))
        self.of_video = np.array([self.label[self.video == v][0] for v in range(self.video.max() + 1)])
        windows, self.width = np.bincount(self.video), rows.shape[1]
        self.centres = np.stack([rows[self.label == c].mean(0) for c in range(self.label.max() + 1)])
        middle = np.stack([rows[self.video == v].mean(0) for v in range(len(windows))])
        error = rows - middle[self.video]
        within = error.T @ error / (len(rows) - len(windows))
        twins = [np.flatnonzero(self.of_video == c) for c in range(len(self.centres))]
        steps = np.concatenate([middle[t] - middle[t].mean(0) for t in twins])
        between = steps.T @ steps / (len(steps) - len(twins)) - within * (1 / windows).mean()
        spread = [train[kind].astype(float)[train["label"] == c].var(0, ddof=1).sum() for c in np.unique(label)]
        share = np.bincount(self.label) / len(rows)
        self.scale = np.sqrt(np.array(spread) / (share @ spread))  # of each class
        self.between, self.within = root_of(between), root_of(within)
        inside = (share @ self.scale**2) * (self.between @ self.between.T + self.within @ self.within.T)
        self.mean = share @ self.centres
        away = self.centres - self.mean
        self.cov = away.T @ (away * share[:, None]) + inside
        rng = numpy_rng("bench", "coverage", "change")
        turn = rng.normal(size=(self.width, self.width))
        self.turn, self.move = (turn + turn.T) / 2 / self.width**0.5, 6 * rng.normal(size=self.width) / self.width**0.5

    def truth(self, change):
        """A symmetric map is the cheapest way between the two, so the distance is the mean squared way."""
        step = change * self.turn
        assert np.linalg.eigvalsh(np.eye(self.width) + step).min() > 0
        return float(np.square(step @ self.mean + change * self.move).sum() + np.trace(step @ self.cov @ step))

    def draw(self, rng, change, shared, trials=512):
        """Generated rows with the video that each asks about, and real rows with theirs."""

        def normal(root, kinds):
            return rng.normal(size=(len(kinds), self.width)) @ root.T * self.scale[kinds][:, None]

        mood = normal(self.between, self.of_video)
        real = self.centres[self.label] + mood[self.video] + normal(self.within, self.label)
        pick = rng.integers(len(self.label), size=trials)
        kinds, video = self.label[pick], self.video[pick]
        if shared is None:
            own = normal(self.between, kinds)
        else:
            own = (shared**0.5 * mood + (1 - shared) ** 0.5 * normal(self.between, self.of_video))[video]
        made = self.centres[kinds] + own + normal(self.within, kinds)
        return made + change * (made @ self.turn + self.move), video, real


def old_interval(made, video, real, real_video, label, rng, draws=30):
    """The quantiles of half-samples, moved to surround the value."""
    weights = [np.ones((draws + 1, len(made))), np.ones((draws + 1, len(real)))]
    for names, kinds, weight in ((video, label[0], weights[0]), (real_video, label[1], weights[1])):
        for draw in range(1, draws + 1):
            for kind in np.unique(kinds):
                inside = np.unique(names[kinds == kind])
                count = max(1, (len(inside) + int(rng.integers(2))) // 2)
                weight[draw, (kinds == kind) & ~np.isin(names, rng.permutation(inside)[:count])] = 0
    value, *halves = frechet_distances(made, real, weights)
    low, high = np.quantile(halves - np.mean(halves), [0.025, 0.975])
    return value + low, value + high


def one_line(world, dataset, asked, size, runs, pairs=40):
    change, rng, found = CHANGES[size], numpy_rng("bench", "coverage", dataset, asked, size), []
    old, perfect = [], []
    true = world.truth(change)
    for run in range(runs):
        made, video, real = world.draw(rng, change, SHARED[asked])
        kinds = world.of_video[video], world.label
        options = {"groups": (video, world.video), "strata": kinds, "pairs": pairs, "seed": run}
        if run < 60:  # the same interval, and a perfect model's score
            e = distance_interval(made, real, **options)
            perfect.append(e.perfect)
        else:
            e = interval(frechet_distances, made, real, **options)
        found.append([e.value, e.debiased, e.low <= true <= e.high, true < e.low, e.high - e.low])
        if run < 40:
            low, high = old_interval(made, video, real, world.video, kinds, numpy_rng("old", run))
            old.append(low <= true <= high)
    names = ("value", "debiased", "covers", "truth below", "width")
    means = dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
    return {"world": dataset, "asked with": asked, "true distance": true, **means,
            "perfect": float(np.mean(perfect)), "old covers": float(np.mean(old))}


def main(runs=300, only=None):
    path = ROOT / "bench" / "results" / "interval_coverage.json"
    rows = json.loads(path.read_text())["rows"] if only else []
    rows = [row for row in rows if row["world"] != only]
    with threads(1):
        for dataset in [only] if only else ["mini-music", "mini-vggsound"]:
            world = World(dataset)
            for asked in SHARED:
                lines = [one_line(world, dataset, asked, size, runs) for size in CHANGES]
                for line in lines:
                    line["perfect model scored"], line["runs"] = lines[0]["value"], runs
                    rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()})
                    print(rows[-1], flush=True)
    path.write_text(json.dumps({"rows": sorted(rows, key=lambda row: row["world"])}, indent=1, allow_nan=False) + "\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
