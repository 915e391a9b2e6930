"""Training beside the public training loops, in the same run: bench/results/train.json.

beside    examples a second of our trainer and of improved-diffusion's and HiFi-GAN's own steps, with equal layers
outside   share of a training's steps that is not spent in the model, by model: drawing and sending batches
batch     examples a second against batch size
hours     what the paper's numbers of steps take here

Our side is the real `Trainer` with its real tasks, on made-up clips, so that no dataset is needed. On a CPU the mini
profile is measured (and the paper's in a batch that fits), on a GPU the paper's. Times are medians over rounds in which
all ways take their turns; on one thread it is computing time. 03_train shows the results.

Usage: python bench/train.py --reference FOLDER [--only batch] [--tiny]      (about 8 minutes on two quiet cores)
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import model as bench_model
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from timing import in_turns, machine, medians, save, spent, times_faster
from torch import nn

import clipsynth.engine.train
from clipsynth.base.config import Profile
from clipsynth.base.hashing import numpy_rng
from clipsynth.base.profiles import MINI, PAPER
from clipsynth.engine.diffusion_task import DiffusionTask
from clipsynth.engine.plan import phases
from clipsynth.engine.train import make_trainer
from clipsynth.engine.trainer import Trainer
from clipsynth.engine.vocoder_tasks import VocoderTask
from clipsynth.model.audio import AUDIO

RESULTS = Path(__file__).parent / "results" / "train.json"
CLIPS, FRAMES = 64, 157  # of made-up data: ten seconds each
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class NoiseStore:
    """What training looks at in a feature store, made up."""
    digest = "made up"

    def __init__(self, width: int, folder: object, profile: object = None):
        rng = numpy_rng("bench clips")
        self.folder = folder
        self.mel = rng.uniform(-11, 3, (CLIPS, AUDIO.mels, FRAMES)).astype(np.float16)
        self.embedding = rng.standard_normal((CLIPS, 10, width)).astype(np.float16)
        self.kept = pd.DataFrame({"label": ["noise"] * CLIPS})
        self.audio = rng.integers(-9_000, 9_000, (CLIPS, 160_000)).astype(np.int16)

    def rows(self, split: str) -> np.ndarray:
        """Every clip, whatever the split."""
        return np.arange(CLIPS)


def trainer(kind: str, profile: Profile, **changes: object) -> Trainer:
    """The trainer of `clipsynth train`, on made-up clips; nothing is written."""
    clipsynth.engine.diffusion_task.Store = partial(NoiseStore, profile.unet.condition)  # type: ignore[misc, assignment]
    return make_trainer(kind, "noise", profile, str(DEVICE), changes)


# ---- beside the public loops


class TheirVocoderStep:
    """One step of HiFi-GAN's own training, in the order of its loop, with its networks, losses and mel."""

    def __init__(self, folder: Path, ours: VocoderTask, batch: int):
        sys.path.insert(0, str(folder / "hifi-gan"))
        import meldataset
        import models
        from librosa.filters import mel as filters

        def positional(rate: int, n_fft: int, bands: int, low: float, high: float) -> np.ndarray:
            return filters(sr=rate, n_fft=n_fft, n_mels=bands, fmin=low, fmax=high)

        real_stft = torch.stft

        def pairs(*given: object, **how: object) -> torch.Tensor:
            return torch.view_as_real(real_stft(*given, **{**how, "return_complex": True}))  # type: ignore[arg-type]

        meldataset.librosa_mel_fn = positional  # librosa takes names now
        self.models, self.spectrogram, self.pairs, self.ours = models, meldataset.mel_spectrogram, pairs, ours
        self.real_stft, self.size = real_stft, batch
        self.net = bench_model.public_generator(folder, ours.generator).train().to(DEVICE)
        self.periods, self.scales = models.MultiPeriodDiscriminator(), models.MultiScaleDiscriminator()
        discriminators = [self.periods.to(DEVICE), self.scales.to(DEVICE)]
        adam = partial(torch.optim.AdamW, lr=2e-4, betas=(0.8, 0.99))
        self.update_net = adam(self.net.parameters())
        self.update_discriminators = adam([p for discriminator in discriminators for p in discriminator.parameters()])
        self.turn = 0

    def mel(self, sound: torch.Tensor) -> torch.Tensor:
        """Its mel, whose transform dates from when PyTorch gave pairs of numbers."""
        torch.stft = self.pairs
        try:
            sizes = AUDIO.n_fft, AUDIO.mels, AUDIO.sample_rate, AUDIO.hop, AUDIO.window
            return self.spectrogram(sound, *sizes, 0, 8_000)
        finally:
            torch.stft = self.real_stft

    def __call__(self) -> None:
        losses, self.turn = self.models, self.turn + 1
        real = self.ours.batch(numpy_rng("bench batch", self.turn), self.size)["sound"]
        wanted = self.mel(real)
        real = real[:, None]
        fake = self.net(wanted)
        made = self.mel(fake[:, 0])
        self.update_discriminators.zero_grad()
        total = torch.zeros((), device=DEVICE)
        for discriminator in (self.periods, self.scales):
            of_real, of_fake, _, _ = discriminator(real, fake.detach())
            total = total + losses.discriminator_loss(of_real, of_fake)[0]
        total.backward()
        self.update_discriminators.step()
        self.update_net.zero_grad()
        total = 45 * F.l1_loss(wanted, made)
        for discriminator in (self.periods, self.scales):
            _, of_fake, maps_real, maps_fake = discriminator(real, fake)
            total = total + losses.feature_loss(maps_real, maps_fake) + losses.generator_loss(of_fake)[0]
        total.backward()
        self.update_net.step()
        float(total)


class TheirDiffusionStep:
    """improved-diffusion's own step on the same batches; what our network folds is folded before."""

    def __init__(self, code: object, net: nn.Module, ours: DiffusionTask, batch: int):
        first = ours.batch(numpy_rng("bench batch", 0), batch)
        self.ours, self.size, self.turn = ours, batch, 0
        self.step = bench_model.TheirStep(code, net.to(DEVICE), self.folded(first["mel"]), first["condition"])

    def folded(self, mel: torch.Tensor) -> torch.Tensor:
        """Patches as channels."""
        return F.pixel_unshuffle(mel, self.ours.unet_config.patch)

    def __call__(self) -> None:
        self.turn += 1
        drawn = self.ours.batch(numpy_rng("bench batch", self.turn), self.size)
        self.step.batch, self.step.cond = self.folded(drawn["mel"]), {"query": drawn["condition"]}
        self.step()


def beside(options: argparse.Namespace) -> dict:
    """Examples a second of whole training steps."""
    on_gpu, result = DEVICE.type == "cuda", {}
    profile = PAPER if on_gpu and not options.tiny else tiny(MINI) if options.tiny else MINI
    code = bench_model.improved_diffusion(options.reference)
    size = 2 if options.tiny else profile.train["clipsynth"].batch
    sizes = {"diffusion": size, "vocoder": 2 if not on_gpu or options.tiny else 16}
    theirs = bench_model.awake(bench_model.reference_net(code, profile.unet))
    wide = bench_model.Asked(theirs, code.unet.ResBlock, profile.unet.condition)  # type: ignore[attr-defined]
    ways: dict[str, Callable] = {}
    for precision in ("fp32", "bf16"):
        made = trainer("clipsynth", profile, batch=size, precision=precision, optimizer="adamw")
        if (precision == "bf16") == (made.precision is not None):  # else it would be float32 again
            ways[f"ours, {'float32' if precision == 'fp32' else 'bfloat16'}"] = made.update
    ways["improved-diffusion, query in built channels"] = TheirDiffusionStep(code, wide, made.task, size)
    counts = {"ours": bench_model.parameters(made.task.unet), "theirs": bench_model.parameters(wide)}
    assert counts["ours"] == counts["theirs"], counts
    result["diffusion"] = rates(ways, sizes["diffusion"], options.rounds, list(ways)[-1]) | {"parameters": counts}
    print(result["diffusion"], flush=True)
    # as the public code can be: with the paper's discriminators, and without noise in its stages
    segment = profile.hifigan.segment if on_gpu else 8_192
    small = replace(profile.hifigan, discriminator_scale=1.0, segment=segment, noise=False)
    full = replace(profile, hifigan=small)
    made = trainer("hifigan", full, batch=sizes["vocoder"], precision="fp32", alone=0)
    ways = {"ours, float32": made.update}
    ways["HiFi-GAN"] = TheirVocoderStep(options.reference, made.task, sizes["vocoder"])
    result["vocoder"] = rates(ways, sizes["vocoder"], options.rounds, "HiFi-GAN") | {"segment": small.segment}
    print(result["vocoder"], flush=True)
    return result


def rates(ways: dict[str, Callable], batch: int, rounds: int, slow: str) -> dict:
    """Examples a second of each way, and how many times faster than the slow one."""
    times = in_turns(ways, rounds)
    return {"batch": batch, "examples a second": {name: batch / t for name, t in medians(times).items()},
            "times faster": {name: times_faster(times, slow, name) for name in ways if name != slow}}


# ---- ours alone


def outside(options: argparse.Namespace) -> dict:
    """The share of a run's time outside its networks, by the trainer's own account."""
    profile = tiny(MINI) if options.tiny else PAPER if DEVICE.type == "cuda" else MINI
    result = {}
    for kind in ("clipsynth", "hifigan"):
        made = trainer(kind, profile)
        steps = options.rounds * (10 if DEVICE.type == "cuda" else 4)
        seconds = idle = 0.0
        for first, share in phases(made):  # each kind of step by its share
            made.step = first
            repeat(made.update, 2)
            before = made.outside
            seconds += share * spent(repeat, made.update, steps)
            idle += share * (made.outside - before)
        result[kind] = {"share": idle / seconds, "seconds a step": seconds / steps, "batch": made.config.batch}
        print(kind, result[kind], flush=True)
    return result


def repeat(work: Callable, times: int) -> None:
    """The same work, again and again."""
    for _ in range(times):
        work()


def batch(options: argparse.Namespace) -> dict:
    """Examples a second of a training step against its batch."""
    on_gpu = DEVICE.type == "cuda"
    profile = tiny(MINI) if options.tiny else PAPER if on_gpu else MINI
    rows = []
    for size in (1, 2) if options.tiny else (16, 32, 64, 128, 256) if on_gpu else (4, 8, 16, 32, 64):
        made = trainer("clipsynth", profile, batch=size)
        seconds = medians(in_turns({"step": made.update}, options.rounds))["step"]
        rows.append({"batch": size, "seconds": seconds, "examples a second": size / seconds})
        print(rows[-1], flush=True)
    return {"rows": rows}


def hours(options: argparse.Namespace) -> dict:
    """Hours of the paper's trainings on this machine; on a CPU from a small batch, times what makes a whole one."""
    on_gpu, result = DEVICE.type == "cuda", {}
    profile = tiny(PAPER) if options.tiny else PAPER
    tries = {"clipsynth": 128 if on_gpu else 2, "hifigan": 16 if on_gpu else 1}
    for kind, size in tries.items():
        made = trainer(kind, profile, batch=size, alone=0)
        seconds = medians(in_turns({"step": made.update}, min(3, options.rounds)))["step"]
        precision = "bfloat16" if made.precision else "float32"
        whole = profile.train[kind].batch
        step = seconds * whole / size
        steps = {"clipsynth": (100_000, 500_000), "hifigan": (500_000,)}[kind]
        result[kind] = {"tried batch": size, "batch": whole, "precision": precision, "seconds a step": step,
                        "hours": {f"{n:,} steps": step * n / 3600 for n in steps}}
        print(kind, result[kind], flush=True)
    return result


def tiny(profile: Profile) -> Profile:
    """Small enough to try the script."""
    unet = replace(profile.unet, channels=32, multipliers=(1, 1), blocks=1, attention=(8,), heads=2, patch=4)
    return replace(profile, unet=unet, hifigan=replace(profile.hifigan, channels=32, segment=8_192))


PARTS = {part.__name__: part for part in (beside, outside, batch, hours)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="folder with improved-diffusion and hifi-gan")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts; other results are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="try the script; nothing is written")
    options = parser.parse_args()
    os.environ["CLIPSYNTH_QUIET"] = "1"
    warnings.simplefilter("ignore")
    torch.set_num_threads(options.threads)
    if options.reference is None and "beside" in options.only:
        parser.error("the part `beside` needs --reference; without it name others with --only")
    about = {"with": machine() | {"threads": options.threads}, "profile": "paper" if DEVICE.type == "cuda" else "mini"}
    fresh = {name: about | PARTS[name](options) for name in options.only}
    if not options.tiny:
        save(RESULTS, (json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | fresh)


if __name__ == "__main__":
    main()
