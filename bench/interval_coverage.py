"""How often do the intervals of clipsynth.metrics hold what they should, on sets shaped like MiniMUSIC's test set?

512 clips, balanced over 21 classes, against a few videos of six chunks for each class; 64 dimensions, known truth.
Usage: python bench/interval_coverage.py [runs] [draws]      (a few minutes on one core with the defaults 40 and 60)
"""

import sys

import numpy as np

from clipsynth.core import numpy_rng
from clipsynth.metrics import frechet_distance, interval

CLASSES, WIDTH, CHUNKS = 21, 64, 6
rng = numpy_rng("bench", "coverage")
CENTRES = rng.normal(size=(CLASSES, WIDTH)) * np.linspace(2, 0.2, WIDTH)
CENTRES -= CENTRES.mean(0)
WITHIN = np.linspace(0.8, 0.1, WIDTH)  # deviation between chunks of a video
BETWEEN = WITHIN / 2  # and between videos of a class


def real_clips(videos):
    kinds = np.repeat(np.arange(CLASSES), videos * CHUNKS)
    video = np.arange(len(kinds)) // CHUNKS
    mood = rng.normal(size=(CLASSES * videos, WIDTH)) * BETWEEN
    return CENTRES[kinds] + mood[video] + rng.normal(size=(len(kinds), WIDTH)) * WITHIN, video, kinds


def made_clips(shift, scale, count=512):
    kinds = np.arange(count) % CLASSES
    clips = CENTRES[kinds] + rng.normal(size=(count, WIDTH)) * np.hypot(WITHIN, BETWEEN)
    return clips * scale + shift, kinds


def truth(shift, scale):
    total = (CENTRES**2).sum() / CLASSES + (WITHIN**2 + BETWEEN**2).sum()
    return WIDTH * shift**2 + (1 - scale) ** 2 * total


def holds(estimates, target, debiased):
    moves = [e.debiased - e.value if debiased else 0.0 for e in estimates]
    return np.mean([e.low + m <= target <= e.high + m for e, m in zip(estimates, moves, strict=True)])


def main(runs=40, draws=60):
    print("videos  truth  average  debiased | with strata: again  truth | without: again  truth  debiased")
    for videos in (2, 4):
        for shift, scale in ((0.0, 1.0), (0.1, 1.0), (0.2, 0.9)):
            layered, plain = [], []
            for _ in range(runs):
                (real, video, kinds), (made, asked) = real_clips(videos), made_clips(shift, scale)
                options = {"rng": rng, "draws": draws, "groups": (None, video)}
                layered.append(interval(frechet_distance, made, real, strata=(asked, kinds), **options))
                plain.append(interval(frechet_distance, made, real, **options))
            again, true = np.mean([e.value for e in layered]), truth(shift, scale)
            print(f"{videos:6} {true:6.2f} {again:8.2f} {np.mean([e.debiased for e in layered]):9.2f} |"
                  f"{holds(layered, again, False):19.2f} {holds(layered, true, True):6.2f} |"
                  f"{holds(plain, again, False):15.2f} {holds(plain, true, True):6.2f}"
                  f"{np.mean([e.debiased for e in plain]):10.2f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
