"""Every metric of a set of sounds beside oracles that share nothing with it, and what it says of careless input.

Golden numbers were printed by the packages, on the sets made here: torchmetrics 1.9.0, torch-fidelity 0.4.0, prdc 0.2.
Where a package is installed (`pip install --no-deps torchmetrics lightning-utilities torch-fidelity prdc`) it is asked
again. torch-fidelity's wheel puts a folder `tests` beside itself, so none of them is among what the tests need.
"""
import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.special import softmax
from scipy.stats import entropy, mannwhitneyu

from clipsynth.base.hashing import numpy_rng, torch_rng
from clipsynth.base.process import UserError
from clipsynth.results import distances, neighbours
from clipsynth.results.distances import expected_bias, frechet_distance, kernel_distance
from clipsynth.results.divergences import inception_score, kernel_audio_distance, kl_divergences
from clipsynth.results.extrapolation import half_split
from clipsynth.results.intervals import FIXED

OLD = np.random.RandomState(0)  # whose numbers NumPy has promised never to change
MIX = OLD.randn(12, 12)
MADE, REAL = OLD.randn(200, 12) @ MIX * 0.7 + 1, OLD.randn(200, 12) @ MIX
LOGITS = OLD.randn(150, 7) * 2
GOLDEN = {
    "frechet": 22.509280142744387,  # torchmetrics.image.fid._compute_fid of means and torch.cov
    "cubic": 30.30979058404391,  # torchmetrics.image.kid.poly_mmd(REAL, MADE)
    "inception score": (2.190714076927804, 0.16873392753257127),  # torch_fidelity's isc_features_to_metric(LOGITS)
    "precision and recall": (0.98, 0.455),  # torch_fidelity's prc_features_to_metric(MADE, REAL), neighborhood 3
    "prdc": {"precision": 0.995, "recall": 0.565, "density": 1.701, "coverage": 0.945},  # compute_prdc(REAL, MADE, 5)
}


# The Fréchet distance

def moved(width: int, rows: int, real: int, rank: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Sets whose distance is known: y, and fewer rows with the mean and covariance of y T + m for a symmetric T >= 0.

    T is the gradient of a convex function, hence the cheapest map: the distance is the mean squared way."""
    generator = torch_rng("test", "oracle", width, rows, rank)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    y = draw(real, width) @ draw(width, width) / width**0.5
    axes = torch.linalg.qr(draw(width, rank)).Q
    t, move = (axes * torch.linspace(0.3, 1.7, rank).double()) @ axes.T, draw(width)
    centred = (y - y.mean(0)) / (real - 1) ** 0.5
    sizes, turn = (part[:rank] for part in torch.linalg.svd(centred @ t, full_matrices=False)[1:])
    flat = torch.linalg.qr(torch.cat([torch.ones(rows, 1).double(), draw(rows, rank)], 1)).Q[:, 1:]
    mean = y.mean(0) @ t + move
    x = (flat * sizes[: flat.shape[1]]) @ turn * (rows - 1) ** 0.5 + mean
    return x, y, float((centred @ t - centred).square().sum() + (mean - y.mean(0)).square().sum())


@pytest.mark.parametrize(("width", "rows", "real", "rank"), [
    (64, 400, 400, 64), (64, 300, 400, 20), (64, 65, 900, 64), (64, 12, 900, 11),
    (256, 60, 2_000, 50), (256, 200, 2_000, 150), (3, 50, 70, 2), (1, 9, 9, 1),
])
def test_frechet_distance_of_moved_points(width: int, rows: int, real: int, rank: int) -> None:
    """Full and singular covariances, fewer sounds than dimensions, on either side: ten digits."""
    x, y, true = moved(width, rows, real, rank)
    assert frechet_distance(x, y) == pytest.approx(true, abs=1e-10, rel=1e-12)
    assert frechet_distance(y, x) == pytest.approx(true, abs=1e-10, rel=1e-12)
    assert 0 <= frechet_distance(x, x) < 1e-12 and frechet_distance(x, x + 1) == pytest.approx(width, rel=1e-9)


def test_frechet_distance_beside_others() -> None:
    cross = np.trace(sqrtm(np.cov(MADE.T) @ np.cov(REAL.T)).real)
    usual = np.square(MADE.mean(0) - REAL.mean(0)).sum() + np.cov(MADE.T).trace() + np.cov(REAL.T).trace() - 2 * cross
    assert frechet_distance(MADE, REAL) == pytest.approx(usual, rel=1e-9)
    assert frechet_distance(MADE, REAL) == pytest.approx(GOLDEN["frechet"], rel=1e-9)
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])  # covariances that are diagonal
    corners = np.concatenate([np.eye(3), -np.eye(3)]) * 2.5**0.5  # with exactly the covariance 1
    assert frechet_distance(corners * a**0.5, corners * b**0.5 + 2) == pytest.approx(12 + 1 + 0 + 4, abs=1e-12)


def test_bias_of_a_round_cloud() -> None:
    """d + d (d + 1) / 4 over n: the first order for a Gaussian cloud with equal eigenvalues; twice that for two."""
    cloud = numpy_rng("test", "ball").normal(size=(60_000, 6))
    assert expected_bias(cloud, 100) * 100 == pytest.approx(6 + 6 * 7 / 4, rel=0.02)
    assert expected_bias(cloud, 100, 100) == pytest.approx(2 * expected_bias(cloud, 100))


def test_half_split_removes_the_bias_and_drawing_with_replacement_does_not() -> None:
    rng, corners = numpy_rng("test", "halves"), np.concatenate([np.eye(10), -np.eye(10)]) * 9.5**0.5
    plain, halves, replaced = [], [], []
    for _ in range(60):
        x = rng.normal(size=(120, 10))  # a perfect model: its distance is 0
        found = half_split(x, corners, [None, FIXED])
        plain.append(found.plain)
        halves.append(found.value)
        sizes = np.array([40, 60, 80, 100, 120])
        drawn = [frechet_distance(x[rng.choice(120, n)], corners) for n in sizes]
        replaced.append(np.polyfit(1 / sizes, drawn, 1)[1])
    assert np.mean(plain) > 0.25
    assert abs(np.mean(halves)) < 4 * np.std(halves) / 60**0.5 + 0.02 < 0.1
    assert np.mean(replaced) > 0.6 * np.mean(plain)


def test_half_split_goes_by_names() -> None:
    """Windows of named videos in another order have the same halves; a video on both sides is halved with itself."""
    video, order = np.arange(200) // 2, numpy_rng("test", "order").permutation(200)
    found = half_split(MADE, REAL, [video, video])
    again = half_split(MADE[order], REAL[::-1], [video[order], video[::-1]])
    assert again == pytest.approx(found) and again.units == 100
    assert half_split(MADE, REAL, [video, video], seed=1).value != found.value


# The kernel distance

@pytest.mark.parametrize("pairs", [2**24, 700])
def test_kernel_distances_by_double_sums(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both bandwidths of KAD, and KID, by the sums of their definitions; all pairs at once, or a few at a time."""
    monkeypatch.setattr(distances, "PAIRS", pairs)
    made, real = MADE[:70], REAL[:90]

    def mean(kernel: Callable, u: np.ndarray, v: np.ndarray, own: bool) -> float:
        return float(np.mean([kernel(a, b) for i, a in enumerate(u) for j, b in enumerate(v) if not (own and i == j)]))

    def unbiased(kernel: Callable) -> float:
        return mean(kernel, made, made, True) + mean(kernel, real, real, True) - 2 * mean(kernel, made, real, False)

    def gaussian(width: float) -> Callable:
        return lambda a, b: math.exp(-np.square(a - b).sum() / (2 * width**2))

    medians = [torch.pdist(torch.from_numpy(side)).median().item() for side in (real, made)]
    for rule, width in zip(("reference", "evaluated"), medians, strict=True):
        kad = kernel_audio_distance(made, real, rule, pairs=3).value
        assert kad == pytest.approx(100 * unbiased(gaussian(width)), rel=1e-9)
    assert kernel_distance(made, real, "cubic") == pytest.approx(unbiased(lambda a, b: (a @ b / 12 + 1) ** 3), rel=1e-9)
    assert kernel_distance(MADE, REAL, "cubic") == pytest.approx(GOLDEN["cubic"], rel=1e-9)
    assert kernel_distance(real, real) < 0  # a set against itself shares each point: below zero, and said


def test_kad_of_gaussian_clouds() -> None:
    """The mean over many small sets is the closed form of two Gaussians."""
    rng, s2, d = numpy_rng("test", "kad"), 16.0, 8

    def f(v: float, q: float) -> float:
        return (s2 / (s2 + v)) ** (d / 2) * math.exp(-q / (2 * (s2 + v)))

    exact = f(2, 0) + f(2 * 2.25, 0) - 2 * f(3.25, d * 0.25)
    found = [kernel_distance(rng.normal(size=(30, d)) * 1.5 + 0.5, rng.normal(size=(30, d)), bandwidth=4)
             for _ in range(200)]
    assert abs(np.mean(found) - exact) < 4 * np.std(found) / 200**0.5 < 0.3 * exact


# Shares of neighbours

def shares(made: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    found = neighbours.neighbours(made, real, k)
    names = ("precision", "density", "recall", "coverage")
    return {name: float(values.mean()) for name, values in zip(names, found, strict=True)}


@pytest.mark.parametrize("pairs", [neighbours.PAIRS, 1_000])
def test_neighbours_are_prdcs(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "PAIRS", pairs)
    assert shares(MADE, REAL, 5) == pytest.approx(GOLDEN["prdc"], abs=1e-9)
    three = shares(MADE, REAL, 3)
    assert (three["precision"], three["recall"]) == pytest.approx(GOLDEN["precision and recall"], abs=1e-6)


def test_neighbours_by_definition() -> None:
    """Unequal sizes, with rows that repeat, by loops; `prdc` has no ball of radius 0, here its centre is inside."""
    made, real = np.concatenate([MADE[:30], REAL[:5], MADE[:3]]), np.concatenate([REAL[:45], np.repeat(REAL[:1], 6, 0)])
    k, between = 4, np.linalg.norm(made[:, None] - real, axis=2)

    def radii(x: np.ndarray) -> np.ndarray:
        return np.sort(np.linalg.norm(x[:, None] - x, axis=2), axis=1)[:, k]

    inside = (between < radii(real) - 1e-9) | (between < 1e-9)
    theirs = (between < radii(made)[:, None] - 1e-9) | (between < 1e-9)
    expected = {"precision": inside.any(1).mean(), "density": inside.sum(1).mean() / k,
                "recall": theirs.any(0).mean(), "coverage": inside.any(0).mean()}
    assert shares(made, real, k) == pytest.approx(expected)


def test_memorisation_is_a_rank_test() -> None:
    rng = numpy_rng("test", "memory")
    made, unseen = rng.gamma(2, size=80), rng.gamma(3, size=110)
    found = neighbours.memorised(made, unseen)
    assert found.nearer.value == pytest.approx(1 - mannwhitneyu(made, unseen).statistic / (80 * 110))
    assert found.ratio.value == pytest.approx(made.mean() / unseen.mean())
    assert found.nearer.low > 0.5 > neighbours.memorised(unseen, made).nearer.high


# Class posteriors

def test_kl_divergence_is_scipys() -> None:
    made, real = LOGITS, LOGITS[::-1] * 1.5
    p, q = softmax(real, axis=1), softmax(made, axis=1)
    assert kl_divergences(made, real) == pytest.approx(entropy(p, q, axis=1), abs=1e-12)
    assert kl_divergences(made, real, "generated to real") == pytest.approx(entropy(q, p, axis=1), abs=1e-12)
    both = (torch.from_numpy(side.copy()).log_softmax(1) for side in (made, real))
    summed = torch.nn.functional.kl_div(*both, reduction="sum", log_target=True) / len(made)  # as av-benchmark has it
    assert kl_divergences(made, real).mean() == pytest.approx(float(summed))


def test_inception_score_is_torch_fidelitys() -> None:
    assert inception_score(LOGITS) == pytest.approx(GOLDEN["inception score"], rel=1e-12)


# The packages, where they are installed

def test_torchmetrics_says_the_same() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")
    kid = pytest.importorskip("torchmetrics.image.kid")
    made, real = map(torch.from_numpy, (MADE, REAL))
    theirs = float(fid._compute_fid(real.mean(0), torch.cov(real.T), made.mean(0), torch.cov(made.T)))
    assert theirs == pytest.approx(GOLDEN["frechet"], rel=1e-9)
    assert kernel_distance(made, real, "cubic") == pytest.approx(float(kid.poly_mmd(real, made)), rel=1e-9)


def test_torch_fidelity_says_the_same() -> None:
    scores = pytest.importorskip("torch_fidelity.metric_isc").isc_features_to_metric(torch.from_numpy(LOGITS))
    assert tuple(scores.values()) == pytest.approx(GOLDEN["inception score"], rel=1e-12)
    prc = pytest.importorskip("torch_fidelity.metric_prc").prc_features_to_metric
    found = prc(*map(torch.from_numpy, (MADE, REAL)), prc_neighborhood=3, verbose=False)
    assert (found["precision"], found["recall"]) == pytest.approx(GOLDEN["precision and recall"], abs=1e-6)


def test_prdc_says_the_same() -> None:
    found = pytest.importorskip("prdc").compute_prdc(REAL, MADE, 5)
    assert {name: float(value) for name, value in found.items()} == pytest.approx(GOLDEN["prdc"], abs=1e-9)


# Careless input

METRICS: dict[str, Callable] = {
    "frechet": frechet_distance, "kernel": kernel_distance, "kad": partial(kernel_audio_distance, pairs=3),
    "neighbours": neighbours.neighbours, "nearest": neighbours.nearest_distances, "half split": half_split,
}
FAULTS: dict[str, tuple[np.ndarray, str]] = {
    "one clip": (MADE[:1], "at least 2 rows"), "empty": (MADE[:0], "at least 2 rows"),
    "NaN": (np.where(np.arange(200)[:, None] == 7, np.nan, MADE), "NaN"),
    "infinity": (np.where(np.arange(200)[:, None] == 7, np.inf, MADE), "infinity"),
    "another network": (MADE[:, :5], "one network for both"), "no numbers": (MADE[:, :0], "at least 2 rows"),
    "too large": (MADE * 1e200, "scale them down"), "one vector": (MADE[0], "(12,)"),
    "words": (np.array([["a", "b"], ["c", "d"]]), "no table of numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("metric", METRICS)
def test_careless_input_gives_one_line(metric: str, fault: str) -> None:
    broken, said = FAULTS[fault]
    for sides in ((broken, REAL), (REAL, broken)):
        with pytest.raises(UserError) as error:
            METRICS[metric](*sides)
        assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("metric", [name for name in METRICS if name != "half split"])  # drawn by place, see below
def test_what_is_odd_but_right(metric: str) -> None:
    """float16 from a record, float32, tensors and arrays that are views, all in another order: the same number."""
    def number(*sides: object) -> np.ndarray:
        found = METRICS[metric](*sides)
        parts = found if isinstance(found, tuple) else [getattr(found, "value", found)]
        return np.array([np.mean(part) for part in parts])

    plain = number(MADE, REAL)
    assert number(torch.from_numpy(MADE).flip(0), REAL[::-1]) == pytest.approx(plain, rel=1e-9)
    assert number(MADE.astype(np.float32), torch.from_numpy(REAL).float()) == pytest.approx(plain, rel=0.02)
    assert number(MADE.astype(np.float16), REAL.astype(np.float16)) == pytest.approx(plain, rel=0.05)


def test_sets_without_spread() -> None:
    """Constant features: the distance of their means, or a line that says why there is none."""
    ones, twos = np.ones((9, 4)), np.full((7, 4), 2.0)
    assert frechet_distance(ones, twos) == pytest.approx(4) and half_split(ones, twos).value == pytest.approx(4)
    assert frechet_distance(ones, ones) == 0 == neighbours.nearest_distances(ones, ones).max()
    assert [share.mean() for share in neighbours.neighbours(ones, twos)] == [0, 0, 0, 0]
    for metric in (kernel_distance, kernel_audio_distance):
        with pytest.raises(UserError, match="median distance of the reference"):
            metric(ones, twos)
    assert kernel_distance(ones, twos, bandwidth=1) == pytest.approx(2 - 2 * math.exp(-2))

