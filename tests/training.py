"""Trainings for test_training, in processes of their own: some share the work, some are killed in the middle of it.

`share FOLDER name=value ...` trains some tasks in as many processes as were started, and then one until its last
process is asked to stop. `kill FOLDER` kills trainings again and again, and then gives one no more room on the disk.
"""
import hashlib
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

import clipsynth.engine.diffusion_task
from clipsynth.base.config import TrainConfig
from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import UserError
from clipsynth.base.profiles import SMOKE
from clipsynth.engine.loop import run, stop_requested
from clipsynth.engine.state import load_state, save_state
from clipsynth.engine.train import make_trainer
from clipsynth.engine.trainer import Trainer

SHARED, KILLED = ("waves", "players", "clipsynth"), ("waves", "clipsynth", "hifigan", "specvqgan")
MACHINE = {"seconds", "outside", "examples_per_second", "memory_gb"}  # columns that no run repeats


class RandomStore:
    """What training looks at in a feature store, filled with noise."""
    digest = "random"

    def __init__(self, folder: object = None, clips: int = 6, profile: object = None):
        rng = numpy_rng("random store")
        self.folder, self.kept = folder, pd.DataFrame({"label": ["drum", "violin"] * (clips // 2)})
        self.mel = rng.uniform(-11, 2, (clips, 64, 156)).astype(np.float16)
        self.audio = (rng.normal(size=(clips, 160_000)) * 3_000).astype(np.int16)
        frames = rng.normal(size=(clips, 10, SMOKE.unet.condition))
        self.embedding = (frames / np.linalg.norm(frames, axis=-1, keepdims=True)).astype(np.float16)

    def rows(self, split: str) -> np.ndarray:
        return np.arange(len(self.mel))


class Waves:
    """A toy of one module: a small network that tells the noise in noisy waves."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(9, 16), nn.Tanh(), nn.Linear(16, 8))

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net}

    def config(self) -> dict[str, Any]:
        return {}

    def batch(self, rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        phase = rng.uniform(0, 6, (size, 1)) + np.arange(8)
        return {"wave": torch.from_numpy(np.sin(phase).astype(np.float32))}

    def noise(self, batch: dict[str, torch.Tensor], generator: torch.Generator) -> dict[str, torch.Tensor]:
        t = torch.randint(1_000, (len(batch["wave"]),), generator=generator)
        return {"t": t, "noise": torch.randn(batch["wave"].shape, generator=generator)}

    def loss(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, Any]]:
        share = (batch["t"] / 1_000)[:, None]
        noisy = share * batch["noise"] + (1 - share) * batch["wave"]
        error = (self.net(torch.cat([noisy, share], 1)) - batch["noise"]).square().mean(1)
        return error.mean(), {"mse": error.detach(), "mse_q0": (error.detach(), batch["t"] < 250)}


class Players(Waves):
    """A toy of two modules: one makes waves, the other judges them, and has learned when the first is judged."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    def modules(self) -> dict[str, nn.Module]:
        return {"net": self.net, "judge": self.judge}

    def losses(self, batch: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor, dict[str, Any]]]:
        made = self.net(torch.cat([batch["noise"], batch["t"][:, None] / 1_000], 1))
        loss = (self.judge(batch["wave"]) - 1).square().mean() + self.judge(made.detach()).square().mean()
        yield "judge", loss, {}
        loss = (self.judge(made) - 1).square().mean()
        yield "net", loss, {"fooled": loss.detach()}


TOYS: dict[str, Callable[[], Waves]] = {"waves": Waves, "players": Players}


def trainer(task: str, folder: Path, **changes: Any) -> Trainer:
    """A small training on the CPU in float32: the toy's, or one of the real ones on a store of noise."""
    changes = {"batch": 4, "precision": "fp32", "log_every": 3, **changes}
    if task in TOYS:
        config = TrainConfig(**{"steps": 14, "learning_rate": 1e-2, **changes})
        return Trainer(TOYS[task](), config, folder, {"model": task})
    changes = {"steps": 14, **({"hifigan": {"alone": 2}, "specvqgan": {"alone": 8}}.get(task, {})), **changes}
    made = make_trainer(task, "mini-music", SMOKE, "cpu", changes)
    made.folder = folder
    return made


def outcome(trained: Trainer) -> tuple[str, list[dict[str, float]]]:
    """A digest of all weights, and the log without its clock."""
    parts = [*trained.modules.values(), trained.published()]
    values = b"".join(v.numpy().tobytes() for part in parts for v in part.state_dict().values())
    rows = [{name: value for name, value in row.items() if name not in MACHINE} for row in trained.rows]
    return hashlib.sha256(values).hexdigest(), rows


def share(folder: Path, **changes: Any) -> None:
    for task in SHARED:
        optimizer = "muon" if task == "waves" else "adamw"  # Muon rounds to bfloat16: in a large network shares differ
        run(trainer(task, folder / task, optimizer=optimizer, **changes))


def stop(folder: Path) -> None:
    made = trainer("waves", folder, steps=40)
    draw = made.task.batch

    def batch(rng: np.random.Generator, size: int) -> dict[str, torch.Tensor]:
        if made.step == 3 and made.index == made.processes - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return draw(rng, size)

    made.task.batch = batch
    with stop_requested() as asked:
        run(made, stop=asked)


def child(work: Callable[[], object]) -> int:
    """Do something in a forked process; returns its exit status, negative for a signal."""
    process = os.fork()
    if process == 0:
        try:
            work()
        except UserError as error:
            print(f"refused: {error}", flush=True)
            os._exit(2)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def attempt(task: str, folder: Path, moment: str, step: int) -> None:
    """Go on with a training that saves after each step, and be killed at a moment of a step."""
    made = trainer(task, folder, save_seconds=0.0)
    load_state(made)
    replace, fsync, modules = os.replace, os.fsync, made.modules.values()

    def renaming(source: str | Path, target: str | Path) -> None:
        name = Path(target).name
        if made.step == step and moment == "before renaming" and name == "state.old.pt":
            die()
        if made.step == step and moment == "between renamings" and name == "state.pt":
            die()
        replace(source, target)
        if made.step == step and moment == "after renaming" and name == "state.pt":
            die()

    def syncing(number: int) -> None:
        if made.step == step and moment == "half written":
            os.ftruncate(number, os.fstat(number).st_size // 2)
            die()
        fsync(number)

    os.replace, os.fsync = renaming, syncing  # type: ignore[assignment]
    if moment == "in a step":
        for module in modules:
            module.register_forward_pre_hook(lambda *_: die() if made.step == step else None)
    run(made)


MOMENTS = ("in a step", "half written", "before renaming", "between renamings", "after renaming")


def kills(task: str, folder: Path, count: int) -> None:
    """As many kills, at steps that a seed chose; in the end the same as a training that was left alone."""
    whole = trainer(task, folder / "whole", save_seconds=1e9)
    steps = numpy_rng("kills", task).permutation(np.arange(2, whole.config.steps))[:count]
    assert child(lambda: run(whole)) == 0
    for step, moment in zip(sorted(steps.tolist()), count * MOMENTS, strict=False):
        died = child(lambda step=step, moment=moment: attempt(task, folder / "killed", moment, step))  # type: ignore
        assert died == -signal.SIGKILL, f"{moment}, step {step}: {died}"
        print("killed", moment, step, flush=True)
    assert child(lambda: attempt(task, folder / "killed", "never", 0)) == 0
    ends = []
    for name in ("whole", "killed"):
        ended = trainer(task, folder / name)
        assert load_state(ended) and ended.step == ended.config.steps
        ends.append(outcome(ended))
    assert ends[0] == ends[1], f"{task}: not the same bits, or not the same log"
    left = sorted(path.name for path in (folder / "killed").iterdir())
    plateau = ["plateau.pt"] if ended.config.cooldown else []
    assert left == ["log.csv", *plateau, "state.old.pt", "state.pt"], left
    print(task, "the same,", len(ends[0][1]), "rows", flush=True)


def full(folder: Path) -> None:
    """A disk that takes no more in the middle of a file: for this process, files end at some size."""
    made = trainer("waves", folder, save_seconds=0.0)
    run(made, until=3)
    kept = outcome(made)

    def go_on() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
        save_state(made)

    assert (folder / "state.pt").stat().st_size > 4_000
    assert child(go_on) == 2
    left = trainer("waves", folder)
    assert load_state(left) and left.step == 3 and outcome(left) == kept
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "state.old.pt", "state.pt"]


def settings(words: list[str]) -> Iterator[tuple[str, Any]]:
    for name, value in (word.split("=") for word in words):
        yield name, float(value) if "." in value or "e" in value else int(value)


if __name__ == "__main__":
    what, folder, *words = sys.argv[1:]
    clipsynth.engine.diffusion_task.Store = RandomStore  # type: ignore[misc, assignment]
    if what == "share":
        share(Path(folder), **dict(settings(words)))
        stop(Path(folder) / "stop")
        torch.distributed.destroy_process_group()
    else:
        for task in KILLED:
            kills(task, Path(folder) / task, 10 if task == "waves" else len(MOMENTS))
        full(Path(folder) / "full")
