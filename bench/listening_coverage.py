"""How often do the intervals of a listening test hold the truth, and what does a test of some size find?

Listeners are simulated (`listen.simulate`), so the truth is known: Table 2's test of 30 listeners with 10 pairs each
over two datasets, and others. Beside our intervals stand four simpler ways: votes taken as independent, listeners or
items alone redrawn, and both in one go by products of weights.

Usage: python bench/listening_coverage.py [tests]      (500 tests: some 12 minutes on one free core)
Results go to bench/results/listening_coverage.json, which 06_listen shows.
"""

import sys
from pathlib import Path

import numpy as np
from timing import machine, save

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import progress, threads
from clipsynth.listen.design import Choices, Plan, lay_out
from clipsynth.listen.preference import comparisons, points, resample, share_estimate
from clipsynth.listen.simulate import (
    Truth,
    ballots,
    power,
    simulate,
    true_chances,
    true_scores,
    truth_with_difference,
)
from clipsynth.listen.strengths import fit_strengths, strengths

ROOT = Path(__file__).parents[1]
WORLDS = {"music": 21, "vggsound": 46}  # classes, as in the mini worlds
SYSTEMS = {"clipsynth": 0.1, "clipsynth-text": -0.4, "clipsynth-hybrid": -0.3, "retriever": 0.6}  # logits
FAR = {name: 4 * strength for name, strength in SYSTEMS.items()}
TRUTHS = {  # what differs besides the systems
    "nothing": Truth({"quality": SYSTEMS}, listener_sd=0, item_sd=0),
    "listeners and sounds": Truth({"quality": SYSTEMS}),
    "sounds more": Truth({"quality": SYSTEMS}, item_sd=1.0),
    "both much, a habit of the left side": Truth({"quality": SYSTEMS}, listener_sd=1.0, item_sd=1.0, side=0.4),
    "listeners and sounds, systems far apart": Truth({"quality": FAR}),
}
SIZES = {"30 listeners, 10 pairs": (30, 10), "12 listeners, 10 pairs": (12, 10), "100 listeners, 15 pairs": (100, 15)}
CHOICES = {name: Choices(tuple(SYSTEMS), tuple((f"class {n}", "0") for n in range(count)))
           for name, count in WORLDS.items()}
WAYS = ("ours", "votes independent", "listeners alone", "items alone", "products of weights")


def population_strengths(truth):
    """What Davidson's model makes of endless votes: tastes and sounds draw the strengths together a little."""
    own = list(truth.strengths["quality"].values())
    pairs = np.array([[true_chances(a - b, truth) for b in own] for a in own])
    many = 1e6 * (1 - np.eye(len(own)))
    return fit_strengths((pairs[..., 0] * many)[None], (pairs[..., 1] * many)[None])[0][0]


def variances(plan, got, met, seed, replicates=500):
    """The variance of each system's score in each of the ways."""
    rng, n = numpy_rng("bench", "listening", seed=seed), len(got)
    values = (plan.weights @ got) / (plan.weights @ met)
    factors = [(m + 1) / (m - 1) for m in plan.units]
    blocks = values[1:].reshape(3, -1, got.shape[1]).var(axis=1, ddof=1) * np.array(factors)[:, None]
    single = rng.standard_exponential((replicates, n))
    listener, item = plan.weights[1 : 1 + replicates], plan.weights[1 + replicates : 1 + 2 * replicates]
    both = listener * item
    spread = [((w @ got) / (w @ met)).var(axis=0, ddof=1) for w in (single, both)]
    return values[0], dict(zip(WAYS, [plan.variance(values), spread[0], blocks[0], blocks[1], spread[1]], strict=True))


def one_line(size, name, tests):
    listeners, pairs = SIZES[size]
    truth, rows = TRUTHS[name], []
    true, strong = np.array(list(true_scores(truth, "quality").values())), population_strengths(truth)
    systems = list(SYSTEMS)
    for test in progress(range(tests), f"{size}, {name}", tests, "test"):
        if test % 50 == 0:  # another design of the same kind
            plan = Plan(listeners, pairs, criteria=("quality",), identical=0, noise=0, repeats=0, seed=test)
            empty = ballots(lay_out(CHOICES, plan))
        every = simulate(empty, truth, seed=test)
        found = strengths(every, seed=test).set_index(["dataset", "system"])["strength"]
        for world in WORLDS:
            votes = every[every["dataset"] == world]
            weights = resample(votes, seed=test)
            score, of = variances(weights, *points(votes, systems), seed=test)
            fitted = [found[world, system] for system in systems]
            row = {"world": world, "score": score, "strength": np.array([e.value for e in fitted])}
            for way, variance in of.items():
                ends = [share_estimate(s, v, weights) for s, v in zip(score, variance, strict=True)]
                row[way] = np.array([e.low <= t <= e.high for e, t in zip(ends, true, strict=True)])
                row[f"{way}, width"] = np.mean([e.high - e.low for e in ends])
            row["strengths"] = np.array([e.low <= t <= e.high for e, t in zip(fitted, strong, strict=True)])
            rows.append(row)
    return [line_of(size, name, world, rows, true, strong) for world in WORLDS]


def line_of(size, name, world, rows, true, strong):
    some = [row for row in rows if row["world"] == world]
    scores, fitted = (np.array([row[what] for row in some]) for what in ("score", "strength"))
    right = [np.array_equal(np.argsort(s)[-1:], np.argsort(strong)[-1:]) for s in fitted]
    return {
        "size": size, "differ": name, "world": world, "tests": len(some),
        "covers": {way: float(np.mean([row[way] for row in some])) for way in WAYS},
        "worst system": float(np.mean([row["ours"] for row in some], axis=0).min()),
        "width": {way: float(np.mean([row[f"{way}, width"] for row in some])) for way in WAYS},
        "strengths cover": float(np.mean([row["strengths"] for row in some])),
        "true scores": dict(zip(SYSTEMS, true.tolist(), strict=True)),
        "mean scores": dict(zip(SYSTEMS, scores.mean(0).tolist(), strict=True)),
        "true strengths": dict(zip(SYSTEMS, strong.tolist(), strict=True)),
        "mean strengths": dict(zip(SYSTEMS, fitted.mean(0).tolist(), strict=True)),
        "strength error": float(np.sqrt(np.mean((fitted - strong) ** 2))),
        "correlation": float(np.mean([np.corrcoef(s, strong)[0, 1] for s in fitted])),
        "best found": float(np.mean(right)),
    }


def false_findings(tests):
    """How often a whole table of systems that are alike has a difference, without and with Holm's correction."""
    alike = dict.fromkeys(SYSTEMS, 0.0)
    truth, found = Truth(dict.fromkeys(("quality", "relevance", "noise"), alike)), []
    empty = ballots(lay_out(CHOICES, Plan(identical=0, noise=0, repeats=0)))
    for test in progress(range(tests), "false findings", tests, "test"):
        table = comparisons(simulate(empty, truth, seed=test), seed=test)
        found.append([(table["p"] < 0.05).any(), (table["p (Holm)"] < 0.05).any(), (table["p"] < 0.05).mean()])
    plain, corrected, single = np.mean(found, axis=0).tolist()
    return {"tests": tests, "comparisons": len(table), "any, uncorrected": plain, "any, Holm": corrected,
            "of a single one": single}


def sizes(tests):
    """How often a difference in score is found on one of two datasets, by listeners and by sounds of each class."""
    rows = []
    for difference, clips in ((0.1, 1), (0.1, 5), (0.2, 1)):
        truth = truth_with_difference(list(SYSTEMS), difference)
        items = tuple((f"class {n}", str(clip)) for n in range(WORLDS["music"]) for clip in range(clips))
        choices = {"music": Choices(tuple(SYSTEMS), items)}
        table = power(choices, [15, 30, 60, 120, 240, 480], 5, truth, tests)
        rows += [{"difference": difference, "clips": clips, "tests": tests, **row} for row in table.to_dict("records")]
    return rows


def main(tests=500):
    with threads(1):
        lines = [("30 listeners, 10 pairs", name) for name in TRUTHS]
        lines += [(size, "listeners and sounds") for size in list(SIZES)[1:]]
        rows = [line for size, name in lines for line in one_line(size, name, tests)]
        result = {"coverage": rows, "false": false_findings(tests), "power": sizes(min(tests, 300))}
    for row in rows:
        print(row["size"], row["differ"], row["world"], row["covers"], row["strengths cover"])
    save(ROOT / "bench/results/listening_coverage.json", {**result, **machine()})


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
