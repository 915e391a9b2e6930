"""Which recipe a small diffusion model learns fastest with: bench/results/screening.json.

Each arm trains CLIPSynth on mini-music from nothing, for about as many core-minutes as the others: warm-up, a constant
rate for two fifths of the steps, then a fall to zero. On the way the averaged weights are looked at: the error of the
velocity at four noise levels, on test windows with always the same noise, and the share of samples of test pictures in
which the committed MelNet sees the class of the picture. Core-minutes are computing time of training alone, on one
thread, so that a busy machine does not matter. 03_train shows the results. It needs `clipsynth prep mini-music`.

Usage: python bench/screening.py [--minutes 3] [--arms NAME ...]      (about 4 core-minutes an arm)
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timing import machine, save

from clipsynth.base.config import Profile, UNetConfig
from clipsynth.base.hashing import torch_rng
from clipsynth.base.places import dataset_dir, weights_file
from clipsynth.base.profiles import MINI
from clipsynth.data.store import Store
from clipsynth.engine.publish import certificate
from clipsynth.engine.train import make_trainer
from clipsynth.engine.trainer import Trainer
from clipsynth.model.audio import AUDIO
from clipsynth.model.diffusion import Diffusion
from clipsynth.model.query import as_condition
from clipsynth.model.samplers import dpm_solver
from clipsynth.results.metric_nets import embed_all, heard_classes, load_mel_net
from clipsynth.results.trials import Trials, draw_trials, windows_of

RESULTS, DATASET, MODEL = Path(__file__).parent / "results" / "screening.json", "mini-music", "clipsynth"
LEVELS, LOOKS = (200, 500, 1400, 2800), 5  # steps of 4,000 at which the error is taken; how often
WINDOWS, ASKED, EVALUATIONS = 96, 128, 25  # test windows, pictures that are asked with at the end, steps of the sampler
WIDE, NARROW = (replace(MINI.unet, multipliers=widths) for widths in ((1, 2, 2, 2), (1, 1, 2, 2)))
PATCH4 = UNetConfig(channels=64, multipliers=(1, 1, 1), blocks=1, attention=(8,), patch=4, condition=64)
ARMS: dict[str, tuple[UNetConfig, dict[str, object]]] = {
    "Muon, patch 2, mixed": (WIDE, {}),
    "Muon, patch 2, uniform": (WIDE, {"noise": "uniform"}),
    "Muon, patch 2, edm": (WIDE, {"noise": "edm"}),
    "AdamW, patch 2, mixed": (WIDE, {"optimizer": "adamw"}),
    "Muon, patch 2, mixed, narrow": (NARROW, {}),
    "Muon, patch 4, mixed": (PATCH4, {}),
    "AdamW, patch 4, uniform": (PATCH4, {"optimizer": "adamw", "noise": "uniform"}),
}


class HeldOut:
    """Test windows of a world, with queries and noise that are the same for every arm."""

    def __init__(self, dataset: str = DATASET, profile: Profile = MINI) -> None:
        self.store = Store(dataset_dir(profile, dataset) / "features", profile=profile)
        self.mel_net = load_mel_net(weights_file(profile, dataset, "mel-net"))
        self.diffusion = Diffusion(profile.diffusion)
        self.trials = draw_trials(self.store, max(WINDOWS, ASKED))
        self.mel = windows_of(self.store, self.trials.row[:WINDOWS], self.trials.start[:WINDOWS])[1][:, None]
        self.condition = as_condition(self.pictures(self.trials))

    def pictures(self, trials: Trials) -> torch.Tensor:
        """The embedding of each trial's picture."""
        return torch.from_numpy(self.store.embedding[trials.row, trials.second].astype(np.float32))

    @torch.inference_mode()
    def errors(self, unet: torch.nn.Module) -> dict[str, float]:
        """The mean squared error of the velocity at each level, by part of 32 windows."""
        found = {}
        for level in LEVELS:
            noise = torch.randn(self.mel.shape, generator=torch_rng("screening", level))
            total = 0.0
            for part in torch.arange(WINDOWS).split(32):
                t = torch.full((len(part),), level)
                now, x0 = self.diffusion.at(t), self.mel[part]
                noisy = self.diffusion.q_sample(x0, t, noise[part])
                output = unet(noisy, now["time"].flatten(), self.condition[part])[:, :1]
                aim = now["signal"] * noise[part] - now["noise"] * x0
                total += (aim - output).square().mean((1, 2, 3)).sum().item()
            found[f"error_{level}"] = total / WINDOWS
        return found

    def sampled(self, unet: torch.nn.Module, count: int) -> torch.Tensor:
        """Mels in [-1, 1] that are made of the first pictures."""
        made = []
        for part in torch.arange(count).split(32):
            shape = (1, AUDIO.mels, AUDIO.frames)
            seeds = self.trials.seed[part].tolist()
            how = {"seeds": seeds, "shape": shape, "steps": EVALUATIONS}
            made.append(dpm_solver(self.diffusion, unet, self.condition[part], **how))
        return torch.cat(made)

    def accuracy(self, unet: torch.nn.Module, count: int) -> float:
        """In how many of a hundred samples MelNet gives the class that the picture shows."""
        return self.right(heard_classes(self.mel_net, embed_all(self.mel_net, self.sampled(unet, count))))

    def right(self, seen: np.ndarray) -> float:
        """How many of a hundred classes are those that the first trials ask for."""
        return 100 * float((seen == self.trials.label[: len(seen)]).mean())


def fresh(unet: UNetConfig, changes: dict[str, object], steps: int) -> Trainer:
    """A trainer at its first step; nothing is written."""
    profile = replace(MINI, unet=unet)
    how = {"steps": steps, "cooldown": 0.6, "warmup": 40, "seed": 0, "precision": "fp32", **changes}
    return make_trainer(MODEL, DATASET, profile, "cpu", how)


def screened(name: str, held_out: HeldOut, minutes: float) -> dict[str, object]:
    """Train one arm and look at it on the way."""
    unet, changes = ARMS[name]
    trial = fresh(unet, changes, 100)
    trial.update()
    began = time.process_time()
    for _ in range(4):
        trial.update()
    steps = 10 * round(6 * minutes * 4 / (time.process_time() - began))
    trainer, seconds, rows = fresh(unet, changes, steps), 0.0, []
    print(f"{name}: {steps} steps, {time.strftime('%H:%M:%S')}", flush=True)
    looks = {round(steps * (i + 1) / LOOKS): i for i in range(LOOKS)}
    while trainer.step < steps:
        began = time.process_time()
        trainer.update()
        seconds += time.process_time() - began
        if trainer.step not in looks:
            continue
        row = {"step": trainer.step, "core_minutes": seconds / 60}
        row |= held_out.errors(trainer.published())
        if (count := {LOOKS // 2: ASKED // 2, LOOKS - 1: ASKED}.get(looks[trainer.step], 0)):
            row |= {"asked": count, "right": held_out.accuracy(trainer.published(), count)}
        rows.append(row)
        print(json.dumps({k: round(v, 4) for k, v in row.items()}), flush=True)
    parameters = sum(p.numel() for p in trainer.published().parameters())
    about = {"train": trainer.about["train"], "unet": trainer.about["task"]["unet"]}
    return {"arm": name, "parameters": parameters, **about, "rows": rows}


def main() -> None:
    """Screen the arms that were asked for, and put them into the file beside those of other calls."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=3.0, help="core-minutes of training for each arm")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    words = parser.parse_args()
    torch.set_num_threads(1)
    held_out = HeldOut()
    net = certificate(weights_file(MINI, DATASET, "mel-net"))["sha256"]
    inputs = {"dataset": DATASET, "store": held_out.store.digest, "mel-net": net, "windows": WINDOWS}
    for name in words.arms:
        arm = screened(name, held_out, words.minutes)
        kept = json.loads(RESULTS.read_text())["arms"] if RESULTS.exists() else []
        kept = [other for other in kept if other["arm"] != name] + [arm]
        command = f"python bench/screening.py --minutes {words.minutes:g}"
        save(RESULTS, {"command": command, "with": machine(), "inputs": inputs, "arms": kept})


if __name__ == "__main__":
    main()
