"""The Fréchet distance beside other routes to it, and FAD of many clips end to end: bench/results/metrics.json.

distance  two sets of d numbers a sound whose distance is known exactly, in float64: by us, by the matrix root of
          `scipy.linalg.sqrtm`, by the eigenvalues that torchmetrics takes; seconds with means and covariances, errors
fad       10,000 clips of 4.1 seconds through AudioNet and the distance, beside torchmetrics' accumulation of the same
          features batch by batch

How is the distance known? Points y and their images x = y T + m under a symmetric T with no negative eigenvalue: such a
map is the cheapest, so the distance is the mean squared way. Where x is to have fewer rows than y, T is singular, and
the images are replaced by fewer rows that have the same mean and covariance.

One thread; a time is a median over rounds in which all ways take their turns. torchmetrics is not needed by the
package: `pip install --no-deps --target FOLDER torchmetrics lightning-utilities`, and FOLDER on PYTHONPATH; without it
its column is left out, and said to be. results/distances shows the results.

Usage: python bench/metrics.py [--clips 10000] [--rounds 3] [--tiny]      (about 8 minutes on a quiet core)
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import sqrtm
from timing import in_turns, machine, medians, save, times_faster

from clipsynth.base.hashing import numpy_rng, torch_rng
from clipsynth.base.places import weights_file
from clipsynth.model.audio import AUDIO, samples_of
from clipsynth.results.distances import frechet_distance
from clipsynth.results.metric_nets import MetricNet, embed_all, load_audio_net

RESULTS = Path(__file__).parent / "results" / "metrics.json"
SIZES = [(d, n) for d in (128, 512, 2048) for n in (512, 5_000)]  # numbers of a sound, sounds; against REAL
REAL, BATCH = 5_000, 64
AGAIN = 10  # times each clip is heard, to save memory: for the time it does not matter what is in it
OURS, ROOT, EIGEN = "ours", "scipy.linalg.sqrtm", "torchmetrics"
HERE = importlib.util.find_spec("torchmetrics") is not None


def spread(x: torch.Tensor) -> torch.Tensor:
    """Centred rows whose product with themselves is the covariance."""
    return (x - x.mean(0)) / (len(x) - 1) ** 0.5


def known(width: int, rows: int, real: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Two sets, (rows, width) and (real, width), and their distance."""
    generator = torch_rng("bench", "metrics", width, rows)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    y = draw(real, width) * torch.arange(1, width + 1).double() ** -0.25
    move, rank = 0.1 * draw(width), min(width, rows - 12)
    axes = torch.linalg.qr(draw(width, rank)).Q
    scale = axes * torch.linspace(0.5, 1.5, rank).double()  # T = scale @ axes'
    if rows == real:
        x = y @ scale @ axes.T + move
    else:  # as many rows as wanted, of mean zero and with the covariance of the images
        factor = torch.linalg.qr(spread(y) @ scale, mode="r").R
        flat = torch.linalg.qr(torch.cat([torch.ones(rows, 1).double(), draw(rows, rank)], 1)).Q[:, 1:]
        x = flat @ factor @ axes.T * (rows - 1) ** 0.5 + y.mean(0) @ scale @ axes.T + move
    way = (spread(y) @ scale) @ axes.T - spread(y)
    shift = y.mean(0) @ scale @ axes.T + move - y.mean(0)
    return x, y, float(way.square().sum() + shift.square().sum())


def by_root(x: torch.Tensor, y: torch.Tensor) -> float:
    """The usual formula with SciPy's matrix root."""
    a, b = torch.cov(x.T), torch.cov(y.T)
    cross = np.trace(sqrtm((a @ b).numpy()).real)
    return float((x.mean(0) - y.mean(0)).square().sum() + a.trace() + b.trace()) - 2 * float(cross)


def by_eigenvalues(x: torch.Tensor, y: torch.Tensor) -> float:
    """The same with the function of torchmetrics."""
    from torchmetrics.image.fid import _compute_fid

    return float(_compute_fid(x.mean(0), torch.cov(x.T), y.mean(0), torch.cov(y.T)))


def ways() -> dict[str, Callable[[torch.Tensor, torch.Tensor], float]]:
    """The routes that can be taken here."""
    found = {OURS: frechet_distance, ROOT: by_root}
    return found | ({EIGEN: by_eigenvalues} if HERE else {})


def distance_row(width: int, rows: int, real: int, rounds: int) -> dict[str, object]:
    """Seconds and errors of every route for one size."""
    x, y, true = known(width, rows, real)
    found: dict[str, float] = {}

    def take(name: str, route: Callable[[torch.Tensor, torch.Tensor], float]) -> None:
        found[name] = route(x, y)

    times = in_turns({name: partial(take, name, route) for name, route in ways().items()}, rounds, warm=0)
    row: dict[str, object] = {"width": width, "sounds": rows, "reference": real, "distance": true}
    row["seconds"] = medians(times)
    row["times faster"] = {name: times_faster(times, name, OURS) for name in times if name != OURS}
    row["error"] = {name: abs(value - true) for name, value in found.items()}
    print(row, flush=True)
    return row


class Embedder(torch.nn.Module):
    """AudioNet as torchmetrics wants a network of one's own."""

    def __init__(self, net: MetricNet) -> None:
        super().__init__()
        self.net, self.num_features = net, net.width

    def forward(self, sounds: torch.Tensor) -> torch.Tensor:
        return self.net.embed(sounds)


@torch.inference_mode()
def accumulated(net: MetricNet, sounds: np.ndarray, reference: torch.Tensor) -> float:
    """FAD by torchmetrics: sums of features and of their products, batch by batch."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(Embedder(net), reset_real_features=False)
    metric.real_features_sum += reference.sum(0)
    metric.real_features_cov_sum += reference.T @ reference
    metric.real_features_num_samples += len(reference)
    for start in [*range(0, len(sounds), BATCH)] * AGAIN:
        metric.update(torch.from_numpy(sounds[start : start + BATCH]), real=False)
    return float(metric.compute())


def fad_rows(clips: int, rounds: int) -> dict[str, object]:
    """FAD of many clips: embedding and distance, ours and torchmetrics'."""
    net = load_audio_net(weights_file("mini", "mini-music", "audio-net"))
    rng = numpy_rng("bench", "metrics", "clips")
    noise = rng.standard_normal((clips // AGAIN, samples_of(AUDIO.frames)), np.float32)
    level = rng.uniform(0.005, 0.2, (clips // AGAIN, 1)).astype(np.float32)
    few = np.cumsum(noise, axis=1, dtype=np.float32) * 0.01 * level + noise * level / 4
    few = few.clip(-1, 1)
    reference = torch.from_numpy(rng.normal(size=(REAL, net.width)) * 3)
    found: dict[str, float] = {}

    def heard() -> torch.Tensor:
        return torch.cat([embed_all(net, few, BATCH) for _ in range(AGAIN)])

    def ours() -> None:
        found[OURS] = frechet_distance(heard(), reference)

    def theirs() -> None:
        found[EIGEN] = accumulated(net, few, reference)

    here = {OURS: ours} | ({EIGEN: theirs} if HERE else {})
    times = in_turns(here, rounds, warm=0)
    embeddings = heard()
    alone = in_turns({"distance": lambda: frechet_distance(embeddings, reference)}, 5)
    return {"clips": AGAIN * len(few), "reference": REAL, "width": net.width, "seconds": medians(times),
            "distance alone": medians(alone)["distance"], "values": found,
            "times faster": {name: times_faster(times, name, OURS) for name in times if name != OURS}}


def main() -> None:
    """Measure, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=10_000, help="of FAD end to end")
    parser.add_argument("--rounds", type=int, default=3, help="of each distance")
    parser.add_argument("--tiny", action="store_true", help="small sizes, to see that it runs; nothing is kept")
    words = parser.parse_args()
    torch.set_num_threads(1)
    if not HERE:
        print("torchmetrics is not installed: its rows are left out")
    for route in ways().values():  # what is imported with the first call
        route(*known(8, 30, 60)[:2])
    sizes = [(16, 40), (16, 90)] if words.tiny else SIZES
    rows = [distance_row(width, n, 90 if words.tiny else REAL, words.rounds) for width, n in sizes]
    fad = fad_rows(200 if words.tiny else words.clips, 1)
    print(fad, flush=True)
    if not words.tiny:
        versions = {name: version(name) for name in ("scipy", *[EIGEN] * HERE)}
        about = {"command": "python bench/metrics.py", "with": {**machine(), **versions, "threads": 1}}
        save(RESULTS, about | {"distance": rows, "fad": fad})


if __name__ == "__main__":
    main()
