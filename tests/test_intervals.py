"""Intervals of distances and accuracies hold the truth, on small sets whose truth is known."""

import json
from functools import cache

import numpy as np
import pandas as pd
import pytest

from clipsynth.base.config import to_json
from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import UserError
from clipsynth.base.report import Report
from clipsynth.base.tables import Estimate, read_table
from clipsynth.results.distance_intervals import distance_interval
from clipsynth.results.distances import frechet_distance, kernel_distance
from clipsynth.results.intervals import class_accuracy, interval, replicate_plan, weighted_mean
from clipsynth.results.verdicts import CANNOT, difference, gap_closed, verdict

CLASSES, WINDOWS, WIDTH, RUNS = 16, 8, 12, 50  # two videos of each class
OF_VIDEO = np.repeat(np.arange(CLASSES), 2)
VIDEO = np.repeat(np.arange(2 * CLASSES), WINDOWS)
LABEL = OF_VIDEO[VIDEO]
CENTRES = numpy_rng("intervals", "centres").normal(size=(CLASSES, WIDTH)) * np.linspace(3, 0.5, WIDTH)
BETWEEN, WITHIN = np.linspace(0.8, 0.2, WIDTH), np.linspace(1.0, 0.3, WIDTH)
TURN = np.diag(np.linspace(-1, 1, WIDTH))
MOVE = np.ones(WIDTH)


def truth(change):
    """The mean squared way of the map x + change (TURN x + MOVE), which is the cheapest."""
    mean = CENTRES.mean(0)
    cov = np.cov(CENTRES.T, ddof=0) + np.diag(BETWEEN**2 + WITHIN**2)
    return float(change**2 * (np.square(TURN @ mean + MOVE).sum() + np.trace(TURN @ cov @ TURN)))


def draw(rng, change, shared, trials=160):
    """Generated rows, the video that each asks about, and real rows."""
    mood = rng.normal(size=(len(OF_VIDEO), WIDTH)) * BETWEEN
    real = CENTRES[LABEL] + mood[VIDEO] + rng.normal(size=(len(VIDEO), WIDTH)) * WITHIN
    pick = rng.integers(len(VIDEO), size=trials)
    own = mood[VIDEO[pick]] if shared else rng.normal(size=(trials, WIDTH)) * BETWEEN
    made = CENTRES[LABEL[pick]] + own + rng.normal(size=(trials, WIDTH)) * WITHIN
    return made + change * (made @ TURN + MOVE), VIDEO[pick], real


def judged(made, video, real, seed=0, pairs=24, **more):
    return distance_interval(made, real, groups=(video, VIDEO), strata=(OF_VIDEO[video], LABEL),
                             pairs=pairs, seed=seed, **more)


@cache
def runs(change, shared):
    rng = numpy_rng("intervals", change, shared)
    return [judged(*draw(rng, change, shared), seed=run) for run in range(RUNS)]


@pytest.mark.parametrize("shared", [False, True], ids=["text", "pictures"])
@pytest.mark.parametrize("change", [0.0, 0.1, 0.8])
def test_interval_holds_the_true_distance(change, shared):
    """The old interval, around the biased value, seldom or never held a small truth."""
    true, found = truth(change), runs(change, shared)
    covers = np.mean([e.low <= true <= e.high for e in found])
    assert covers >= 0.86  # 95 % less three standard deviations of 50 runs
    assert np.mean([e.debiased for e in found]) == pytest.approx(true, abs=0.05 * true + 0.25)
    if change < 0.5:  # an interval of the same width around the value would miss it
        assert np.mean([e.value - (e.high - e.debiased) <= true for e in found]) < 0.75 * covers
    spread = np.std([e.debiased for e in found])
    assert np.mean([e.high - e.low for e in found]) < 2 * 2.12 * spread * 1.6


@pytest.mark.parametrize("shared", [False, True], ids=["text", "pictures"])
def test_perfect_score_is_known_from_an_imperfect_model(shared):
    expected = np.mean([e.value for e in runs(0.0, shared)])
    assert np.mean([e.perfect for e in runs(0.8, shared)]) == pytest.approx(expected, rel=0.12)


def test_paired_difference_covers_and_is_sharper():
    rng, hits, narrow = numpy_rng("intervals", "pairs"), 0, []
    true = truth(0.4) - truth(0.2)
    for run in range(RUNS):
        made, video, real = draw(rng, 0.0, True)
        near, far = (judged(made + c * (made @ TURN + MOVE), video, real, run) for c in (0.2, 0.4))
        apart = difference(far, near)
        hits += apart.low <= true <= apart.high
        narrow.append((apart.high - apart.low) / np.hypot(far.high - far.low, near.high - near.low))
    assert hits / RUNS >= 0.85 and np.mean(narrow) < 0.8


def test_single_videos_are_accounted_for():
    """Half of the classes have one video: bias and variance are scaled up, not forgotten."""
    keep = (VIDEO % 2 == 0) | (LABEL % 2 == 0)
    plan = replicate_plan([VIDEO[keep]], [LABEL[keep]], [keep.sum()], pairs=3)
    assert plan.inflate == pytest.approx((8 * 2 + 8) / (8 * 2)) and plan.df == 8
    made, video, real = draw(numpy_rng("intervals", "single"), 0.0, False)
    few = distance_interval(made, real[keep], groups=(video, VIDEO[keep]),
                            strata=(OF_VIDEO[video], LABEL[keep]), pairs=24)
    whole = judged(made, video, real)
    assert few.high - few.low > whole.high - whole.low


def test_one_video_of_each_class_or_one_video_has_no_false_certainty():
    made, video, real = draw(numpy_rng("intervals", "lone"), 0.0, False)
    first = VIDEO % 2 == 0
    alone = distance_interval(made, real[first], groups=(video // 2 * 2, VIDEO[first]),
                              strata=(OF_VIDEO[video], LABEL[first]), pairs=8)
    assert np.isfinite([alone.low, alone.high]).all()
    one = distance_interval(made, real, groups=(np.zeros(len(made)), np.zeros(len(real))), pairs=8)
    assert np.isnan(one.low) and one.value == frechet_distance(made, real)
    assert np.isnan(difference(one, one).low) and "no interval" in one.show()


def test_few_distinct_sounds_carry_their_choice():
    """How far 16 recordings are depends on which: the spread over choices is in the interval."""
    rng = numpy_rng("intervals", "retriever")
    kinds = np.arange(160) % CLASSES
    video = 2 * kinds + rng.integers(2, size=160)
    real = draw(rng, 0.0, False)[2]
    pool = CENTRES[:, None] + rng.normal(size=(CLASSES, 6, WIDTH)) * np.hypot(BETWEEN, WITHIN)
    values = [frechet_distance(pool[np.arange(CLASSES), rng.integers(6, size=CLASSES)][kinds], real)
              for _ in range(100)]
    plain = judged(pool[kinds, 0], video, real)
    chosen = judged(pool[kinds, 0], video, real, sounds=kinds, alternatives=pool)
    assert chosen.n == CLASSES and chosen.unit == "distinct sounds"
    assert chosen.variance - plain.variance == pytest.approx(np.var(values), rel=0.5)
    assert chosen.debiased == plain.debiased
    # one real recording for each class scores more than endless variety does
    assert chosen.perfect > 1.2 * runs(0.0, False)[0].perfect
    with pytest.raises(UserError, match="16 distinct sounds"):
        judged(pool[kinds, 0], video, real, sounds=kinds, alternatives=pool[:, 0])


def test_accuracy_counts_videos():
    rng = numpy_rng("intervals", "accuracy")
    kinds, video = np.arange(480) % 24, np.arange(480) % 48
    hits = []
    for rate in (0.6, 0.95):
        for _ in range(100):
            lucky = rng.random(48) < rate  # all answers of a video are alike
            e = class_accuracy(np.where(lucky[video], kinds, -1), kinds, video)
            hits.append(e.low <= rate <= e.high)
            assert e.design is None or e.design > 2
    assert np.mean(hits) >= 0.9  # answers taken as independent: below 0.6


def test_accuracy_at_the_ends():
    kinds, video = np.arange(120) % 12, np.arange(120) % 24
    for heard, value in ((kinds, 1.0), (np.full(120, -1), 0.0)):
        e = class_accuracy(heard, kinds, video)
        assert e.value == value and 0 <= e.low <= value <= e.high <= 1 and 0.05 < e.high - e.low < 0.25
        nothing = difference(e, e)
        assert nothing.debiased == 0 and nothing.low <= 0 <= nothing.high
    with pytest.raises(UserError, match="equally long"):
        class_accuracy([1, 2, 3], [1, 2])
    with pytest.raises(UserError, match="equally long"):
        class_accuracy([1, 2, 3], [1, 2, 3], [0, 1])
    with pytest.raises(UserError, match="no sounds"):
        class_accuracy([], [])


def test_gap_closed_is_honest_without_a_gap():
    made, video, real = draw(numpy_rng("intervals", "gap"), 0.0, True)
    none, half, oracle = (judged(made + c * MOVE, video, real) for c in (0.8, 0.4, 0.0))
    share = gap_closed(none, half, oracle)
    assert share.low < 75 < share.high and share.high - share.low < 40
    lost = gap_closed(oracle, none, judged(made + 0.01 * MOVE, video, real))
    assert np.isinf([lost.low, lost.high]).all() and "∞" in lost.show(0)
    assert json.dumps(to_json(lost.high), allow_nan=False) == "null"


def test_verdicts_say_how_many_trainings():
    def apart(low, high):
        return Estimate((low + high) / 2, low, high, (low + high) / 2)

    assert verdict(apart(-3, -1)) == "holds (one training)"
    assert verdict(apart(1, 3), apart(2, 5)) == "contradicted (two trainings)"
    assert verdict(apart(-3, 1)) == "direction only (one training)"
    assert verdict(apart(-3, -1), apart(-3, 1)) == "direction only (two trainings)"
    assert verdict(apart(-3, -1), apart(-1, 3)) == "undecided (two trainings)"
    assert verdict() == CANNOT
    assert verdict(apart(float("nan"), float("nan"))) == CANNOT


@pytest.mark.parametrize("bandwidth", [0, 0.0, -0.0, -1.0, 1e-300, float("nan"), float("inf")])
def test_kernel_distance_wants_a_bandwidth(bandwidth):
    rows = numpy_rng("intervals", "kernel").normal(size=(9, 4))
    with pytest.raises(UserError, match="bandwidth above 0"):
        kernel_distance(rows, rows + 1, bandwidth=bandwidth)
    with pytest.raises(UserError, match="median distance of the reference is 0"):
        kernel_distance(rows, np.repeat(rows[:1], 9, axis=0))
    with pytest.raises(UserError, match="one network for both"):
        kernel_distance(rows, rows[:, :2])
    assert kernel_distance(rows, np.repeat(rows[:1], 9, axis=0), bandwidth=1.0) > 0


def test_a_model_that_always_says_the_same_is_measured():
    real = draw(numpy_rng("intervals", "collapse"), 0.0, False)[2]
    for made in (np.ones((40, WIDTH)), np.zeros((40, WIDTH)) + CENTRES[0]):
        e = distance_interval(made, real, groups=(None, VIDEO), strata=(np.arange(40) % CLASSES, LABEL), pairs=8)
        assert e.value == frechet_distance(made, real) and e.low < e.debiased < e.high
    assert distance_interval(np.ones((9, 3)), np.ones((9, 3)), pairs=4).value == 0
    with pytest.raises(UserError, match="0 rows"):
        interval(weighted_mean, [])


def test_tables_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPSYNTH_REPORTS", str(tmp_path))
    cells = [Estimate(5.8125, -1.5, 1.75, 0.25, 5.5, 42, "videos"), None, float("nan")]
    frame = pd.DataFrame({"model": [r"a_b & {c}", "50 % ± ^~\\", "#1 – $x$ | <y>"], "FAD": cells})
    Report("base/report", "smoke").table("demo", frame, "Some 50 % & more_of.", {"FAD": 1})
    csv = pd.read_csv(tmp_path / "smoke" / "tables" / "demo.csv")
    columns = ["FAD", "FAD low", "FAD high", "FAD debiased", "FAD perfect", "FAD n"]
    assert list(csv.columns) == ["model", *columns]
    assert all(pd.api.types.is_numeric_dtype(csv[name]) for name in columns)
    assert csv.iloc[0, 1:].tolist() == [5.8125, -1.5, 1.75, 0.25, 5.5, 42]
    back = read_table(tmp_path / "smoke" / "tables" / "demo.csv")
    assert back["FAD"][0].low == -1.5 and back["FAD"][1] is None
    text = (tmp_path / "smoke" / "tables" / "demo.md").read_text(encoding="utf-8")
    for shown in ("5.8 → 0.2 [-1.5, 1.8], perfect 5.5", "| not run |", "| – |", r"$x$ \| <y>"):
        assert shown in text
    tex = (tmp_path / "smoke" / "tables" / "demo.tex").read_text(encoding="utf-8")
    for shown in (r"a\_b \& \{c\}", r"50 \% $\pm$ \textasciicircum{}\textasciitilde{}\textbackslash{}",
                  r"\#1 -- \$x\$ | $<$y$>$", r"$\to$", r"Some 50 \% \& more\_of."):
        assert shown in tex
