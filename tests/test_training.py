"""Training: the same whatever happens to it, the same shared as alone, and one clear line when it cannot go on."""
import copy
import errno
import hashlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import BIN, ROOT, run, start, surroundings, wait_until
from training import KILLED, MACHINE, SHARED, RandomStore, outcome, share, trainer

import clipsynth.engine.train
from clipsynth.base.config import DiffusionConfig, TrainConfig, UNetConfig
from clipsynth.base.hashing import torch_rng
from clipsynth.base.places import seeded_name
from clipsynth.base.process import UserError, autocast_dtype
from clipsynth.base.profiles import DIFFUSION_MODELS, MINI, PAPER, SMOKE
from clipsynth.base.settings import configure
from clipsynth.base.weights import load_config, load_weights, save_weights
from clipsynth.engine.command import main
from clipsynth.engine.loop import run as run_trainer
from clipsynth.engine.optimisers import Muon, learning_rate
from clipsynth.engine.plan import _flops as flops_of_a_step
from clipsynth.engine.plan import plan
from clipsynth.engine.publish import publish, published_file
from clipsynth.engine.runlog import log_text
from clipsynth.engine.state import load_state, save_state
from clipsynth.engine.synth import Synthesizer
from clipsynth.engine.train import make_task, train
from clipsynth.engine.trainer import Trainer
from clipsynth.model.diffusion import Diffusion, training_steps
from clipsynth.model.unet import UNet

SCRIPT = ROOT / "tests/training.py"


@pytest.fixture(autouse=True)
def _noise_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of noise wherever one is looked for."""
    monkeypatch.setattr("clipsynth.engine.diffusion_task.Store", RandomStore)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder that is empty."""
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made together."""
    folder = tmp_path_factory.mktemp("two")
    together("share", folder, "steps=4", "batch=2")
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What a process said that killed its children."""
    return run(BIN / "python", SCRIPT, "kill", tmp_path_factory.mktemp("killed"), PYTHONPATH=ROOT).stdout.splitlines()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def together(*words: object, processes: int = 2) -> None:
    """Start the script in several processes that talk, as a launcher does: by its variables, on this machine alone.

    A port that was free may be taken by the time that it is needed, so there is a second try.
    """
    said: list[str] = []
    for _ in range(2):
        about: dict[str, object] = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1",
                                    "MASTER_PORT": free_port(), "CUDA_VISIBLE_DEVICES": ""}
        if sys.platform == "linux":
            about["GLOO_SOCKET_IFNAME"] = "lo"
        started = [start(BIN / "python", SCRIPT, *words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                         **about, RANK=rank, LOCAL_RANK=rank, PYTHONPATH=ROOT) for rank in range(processes)]
        wait_until(lambda started=started: any(process.poll() for process in started)  # type: ignore[misc]
                   or all(process.poll() == 0 for process in started), pause=0.05)
        for process in started:
            process.kill()
        said = [process.communicate()[0] for process in started]
        if not any(process.returncode for process in started):
            return
    pytest.fail("\n".join(said)[-4_000:], pytrace=False)


def state(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "state.pt", weights_only=True)


def test_shares_make_the_same_step(two: Path, tmp_path: Path) -> None:
    """One process with a batch of 4; two with 2 each; one that adds up four batches of 1."""
    share(tmp_path / "one", steps=4, batch=4)
    share(tmp_path / "parts", steps=4, batch=1, accumulate=4)
    for task in SHARED:
        one, *others = (state(folder / task) for folder in (tmp_path / "one", tmp_path / "parts", two))
        for other in others:
            assert other["about"] == one["about"], "a run may move to more processes, or to fewer"
            for mine, theirs in zip(one["rows"], other["rows"], strict=True):
                for name in set(mine) - MACHINE:
                    assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-6), f"{task}: {name}"
            # toys to rounding, with Muon that of bfloat16; in a large network AdamW can blow up that of a gradient
            # that is nearly nothing
            limit = {"clipsynth": 1e-4, "waves": 1e-3}.get(task, 1e-5)
            for module, weights in one["modules"].items():
                for name, value in weights.items():
                    assert (value - other["modules"][module][name]).abs().max() < limit, f"{task}: {name}"


def test_processes_stop_together(two: Path) -> None:
    assert state(two / "stop")["step"] == 10, "they look at the signal of one of them after every tenth step"


def test_kills_leave_no_trace(killed: list[str]) -> None:
    """kill -9 in the middle of a step and at each boundary of a save: a toy, the U-Net, and HiFi-GAN's two players."""
    assert [line.split()[0] for line in killed if " the same, " in line] == list(KILLED)


def test_a_full_disk_keeps_the_last_state(killed: list[str]) -> None:
    assert killed[-1].startswith("refused: cannot write") and "File too large" in killed[-1]


def saved(folder: Path, steps: int = 2) -> Trainer:
    made = trainer("waves", folder)
    for _ in range(steps):
        made.update()
        save_state(made)
    return made


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_pickle(path: Path) -> None:
    torch.save(torch.zeros(3), path)


@pytest.mark.parametrize("damage", [cut, flip, empty, other_pickle])
def test_a_damaged_state_gives_way_to_the_one_before(
        damage: Callable[[Path], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path)
    damage(tmp_path / "state.pt")
    again = trainer("waves", tmp_path)
    assert load_state(again) and again.step == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "state.pt is damaged: going on from step 1" in said
    save_state(again)  # the good one of the two is not given up for the damaged one
    damage(tmp_path / "state.pt")
    assert load_state(trainer("waves", tmp_path))
    damage(tmp_path / "state.old.pt")
    with pytest.raises(UserError, match=r"state.pt and state.old.pt are damaged: delete it to start anew"):
        load_state(trainer("waves", tmp_path))


@pytest.mark.parametrize("failure", [
    MemoryError(), RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    OSError(errno.EIO, os.strerror(errno.EIO)), PermissionError(errno.EACCES, os.strerror(errno.EACCES))], ids=repr)
def test_only_damage_is_called_damage(failure: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A state that does not fit in memory, or that the disk does not give now, is good."""
    saved(tmp_path)
    again = trainer("waves", tmp_path)

    def fails(*words: object, **options: object) -> None:
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", fails)
        with pytest.raises(UserError, match=r"state.pt does not fit in memory|cannot read .*state.pt \(") as told:
            load_state(again)
    assert "damaged" not in str(told.value) and "delete" not in str(told.value) and again.step == 0
    assert load_state(again) and again.step == 2


HOLDER = """
import sys; from pathlib import Path
from clipsynth.base.files import lock
from clipsynth.engine.state import alone_in, save_state
from training import trainer
made = trainer("waves", Path(sys.argv[1]))
with alone_in(made):
    made.update(); save_state(made); (made.folder / ".state.pt.1a2b.part.pt").touch()
    print("training", flush=True); sys.stdin.read()
"""


def test_two_trainings_in_one_folder(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    """The second is refused in one line and touches nothing; a first that was killed is in nobody's way."""
    folder = data / "smoke/runs/mini-music/clipsynth"
    about = surroundings(PYTHONPATH=f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
    with subprocess.Popen([str(BIN / "python"), "-c", HOLDER, str(folder)], env=about, text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        try:
            assert first.stdout and first.stdout.readline() == "training\n"
            before = {path.name: path.read_bytes() for path in folder.iterdir()}
            words = ["clipsynth", "mini-music", "batch=2", "precision=fp32", "--profile", "smoke", "--device", "cpu"]
            assert main(["train", *words]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and f"a training is going on here (process {first.pid} on " in said
            for act in (load_state, run_trainer):
                with pytest.raises(UserError, match="a training is going on here"):
                    act(trainer("waves", folder))
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        finally:
            first.kill()
    again = trainer("waves", folder)
    assert load_state(again) and again.step == 1
    run_trainer(again, until=2)
    assert sorted(path.name for path in folder.iterdir()) == ["log.csv", "state.old.pt", "state.pt"]


def test_weights_that_are_not_finite_are_not_published(data: Path) -> None:
    changes = {"ema": 0.0, "precision": "fp32"}
    made = clipsynth.engine.train.make_trainer("clipsynth", "mini-music", SMOKE, "cpu", changes)
    path = published_file(made, SMOKE)
    for value in (float("nan"), float("inf"), 1e30):  # the last is not finite in a file of float16
        with torch.no_grad():
            next(made.published().parameters()).view(-1)[0] = value
        with pytest.raises(UserError, match="not written: 1 of .* not finite in float16"):
            publish(made, SMOKE)
        assert not path.exists() and not path.with_suffix(".csv").exists()


def test_a_save_that_was_cut_off_between_its_renamings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path)
    os.replace(tmp_path / "state.pt", tmp_path / "state.old.pt")
    again = trainer("waves", tmp_path)
    assert load_state(again) and again.step == 2 and capsys.readouterr().err == ""


def test_another_run_is_refused_by_name(tmp_path: Path) -> None:
    made = trainer("clipsynth", tmp_path)
    save_state(made)
    for changes, name in (({"learning_rate": 0.5}, "learning_rate"), ({"seed": 1}, "seed"), ({"batch": 8}, "batch")):
        with pytest.raises(UserError, match=rf"other settings or data \({name}\)"):
            load_state(trainer("clipsynth", tmp_path, **changes))
    changed = trainer("clipsynth", tmp_path)
    changed.about["task"]["store"] = "made anew"
    with pytest.raises(UserError, match=r"other settings or data \(store\)"):
        load_state(changed)
    for free in ({"log_every": 1}, {"save_seconds": 1.0}, {"steps": 30}, {"batch": 2, "accumulate": 2}):
        assert load_state(trainer("clipsynth", tmp_path, **free))


def test_a_write_that_fails_keeps_the_last_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = saved(tmp_path)

    def no_space(number: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(UserError, match="No space left on device") as told:
        run_trainer(made)
    assert "\n" not in str(told.value)
    again = trainer("waves", tmp_path)
    assert load_state(again) and again.step == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.csv", "state.old.pt", "state.pt"]


def test_a_folder_that_cannot_be_written_is_found_out_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = trainer("waves", tmp_path / "file" / "run")
    with pytest.raises(UserError, match="cannot write"):
        run_trainer(made)
    assert made.step == 0


def spoiled(made: Trainer) -> None:
    """Make the loss of the noisier examples not a number."""
    losses = made.task.diffusion.losses

    def some(unet: Any, mel: Any, t: torch.Tensor, *rest: Any) -> dict[str, torch.Tensor]:
        terms = losses(unet, mel, t, *rest)
        mse = torch.where(t >= 500, torch.nan, terms["mse"])
        return {"loss": mse + terms["vb"], "mse": mse, "vb": terms["vb"]}

    made.task.diffusion.losses = some


def weights(made: Trainer) -> list[torch.Tensor]:
    return [value.clone() for module in made.modules.values() for value in module.state_dict().values()]


def same(some: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


def test_a_loss_that_stays_not_finite_is_diagnosed(tmp_path: Path) -> None:
    made = trainer("clipsynth", tmp_path, batch=8)
    before = weights(made)
    spoiled(made)
    with pytest.raises(UserError, match=r"10 times in a row up to step 10 \(mse at t = (\S+) to (\S+) in") as told:
        run_trainer(made)
    assert "\n" not in str(told.value) and "vb" not in str(told.value)
    assert same(weights(made), before), "skipped steps change nothing"
    assert made.rows[-1]["skipped"] == 9 and made.step == 10


def test_a_players_loss_is_diagnosed(tmp_path: Path) -> None:
    made = trainer("hifigan", tmp_path, alone=0, batch=1)
    with torch.no_grad():
        next(made.modules["discriminators"].parameters()).fill_(torch.inf)
    with pytest.raises(UserError, match=r"10 times in a row .*\((discriminator|features|adversarial)"):
        run_trainer(made)


def test_one_bad_step_is_skipped_and_counted(tmp_path: Path) -> None:
    made = trainer("waves", tmp_path, log_every=1)
    draw = made.task.noise

    def noise(batch: dict[str, torch.Tensor], rng: torch.Generator) -> dict[str, torch.Tensor]:
        drawn = draw(batch, rng)
        return {**drawn, "noise": drawn["noise"] / 0} if made.step == 5 else drawn

    made.task.noise = noise
    run_trainer(made)
    assert made.skipped == 1 and [row["skipped"] for row in made.rows[4:7]] == [0, 1, 1]
    assert all(value.isfinite().all() for value in weights(made))


def test_the_log_tells_what_training_does(tmp_path: Path) -> None:
    made = trainer("clipsynth", tmp_path, steps=4, log_every=2, batch=8)
    run_trainer(made)
    text = (tmp_path / "log.csv").read_text(encoding="utf-8")
    assert text == log_text(made.rows) and text.count("\n") == 3
    names = text.splitlines()[0].split(",")
    wanted = {"step", "mse", "vb", "grad_norm_unet", "learning_rate", "skipped", "loss_unet", *MACHINE}
    assert wanted | {f"{name}_q{i}" for name in ("mse", "vb") for i in range(4)} >= set(names) >= wanted
    assert all(0 < row["outside"] < 1 and row["examples_per_second"] > 0 for row in made.rows)


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


@pytest.mark.parametrize("task", ["clipsynth", "hifigan"])
def test_watching_changes_nothing(task: str, tmp_path: Path) -> None:
    seen = {"tensorboard": True, "sample_every": 2, "save_seconds": 0.0}
    ends = []
    for name, changes in (("alone", {}), ("watched", seen)):
        made = trainer(task, tmp_path / name, steps=4, log_every=1, batch=2, **changes)
        run_trainer(made, until=3)
        made = trainer(task, tmp_path / name, steps=4, log_every=1, batch=2, **changes)
        assert load_state(made)
        run_trainer(made)
        ends.append(outcome(made))
    assert ends[0] == ends[1]
    shown = events(tmp_path / "watched")
    assert [event.step for event in shown.Scalars("skipped")] == [1, 2, 3, 4]
    kind = shown.Images("sampled") if task == "clipsynth" else shown.Tags()["audio"]
    assert len(kind) == (2 if task == "clipsynth" else 8)


def test_plan_writes_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = plan("hifigan", "mini-music", SMOKE, "cpu", {"alone": 2, "batch": 1}, price=3.0, steps=1)
    assert set(taken["parameters"]) == {"generator", "discriminators"} and taken["flops_per_step"] > 0
    assert taken["hours"] == pytest.approx(taken["seconds_per_step"] * taken["steps"] / 3600)
    assert taken["cost"] == pytest.approx(3 * taken["hours"])
    words = ["clipsynth", "mini-music", "batch=2", "precision=fp32", "--profile", "smoke", "--device", "cpu"]
    assert main(["train", *words, "--plan", "--price", "2"]) == 0
    said = capsys.readouterr()
    assert all(name in said.out for name in ("parameters", "GFLOP", "hours", "cost")) and said.err == ""
    assert list(data.rglob("*")) == []


def test_operations_are_counted_as_by_hand() -> None:
    made = trainer("waves", Path("nowhere"), batch=4)
    layers = 9 * 16 + 16 * 8  # multiplications of one example, forwards
    backwards = layers + 16 * 8  # to weights, and to the hidden layer
    assert flops_of_a_step(made) == 2 * 4 * (layers + backwards)


def test_seeds_train_side_by_side(data: Path) -> None:
    quick = {"steps": 1, "batch": 2, "precision": "fp32"}
    first, second = (train("clipsynth", "mini-music", SMOKE, "cpu", changes={**quick, "seed": seed}) for seed in (0, 1))
    assert first and second and (first.stem, second.stem) == ("clipsynth", "clipsynth-seed1")
    assert seeded_name("clipsynth", 1) == second.stem and (data / "smoke/runs/mini-music/clipsynth-seed1").is_dir()
    config = load_weights(second)[1]
    assert (config["model"], config["made"]["train"]["seed"]) == ("clipsynth", 1)
    assert "seed=1" in config["made"]["command"]
    sounds = []
    for model in ("clipsynth", "clipsynth-seed1"):
        synthesizer = Synthesizer("mini-music", model, SMOKE, "cpu", vocoder="griffin-lim")
        query = torch.nn.functional.normalize(torch.ones(1, SMOKE.unet.condition))
        sounds.append(synthesizer.mels(query, [0], steps=2))
    assert not torch.equal(*sounds)


def test_all_tasks_are_made_alike(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipsynth.data.store.Store", RandomStore)
    for model in ("clipsynth", "clipsynth-guided", "hifigan", "specvqgan", "mel-net", "audio-net"):
        task = make_task(model, "mini-music", SMOKE, 0, "cpu")
        batch = task.batch(np.random.default_rng(0), 2)
        assert {len(value) for value in batch.values()} == {2}, "a row for each example"


def test_features_that_do_not_fit_stay_on_the_disk(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = []
    for room in (float("inf"), 1_000.0):
        monkeypatch.setattr("clipsynth.engine.diffusion_task.free_memory", lambda device, room=room: room)
        task = make_task("clipsynth", "mini-music", SMOKE, 0, "cpu")
        assert isinstance(task.mel, torch.Tensor) == (room > 1_000)
        batches.append(task.batch(np.random.default_rng(0), 5))
    for name, value in batches[0].items():
        assert torch.equal(value, batches[1][name]), name


def test_bfloat16_only_where_it_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    for able in itertools.product((True, False), repeat=2):
        for name, answer in zip(checks, able, strict=True):
            monkeypatch.setattr(torch.cpu, name, lambda answer=answer: answer, raising=False)
        assert autocast_dtype("cpu") == (torch.bfloat16 if any(able) else None)
        assert (trainer("waves", tmp_path, precision="bf16").precision is not None) == any(able)
        assert trainer("waves", tmp_path).precision is None
    for name in checks:  # another release of torch
        monkeypatch.delattr(torch.cpu, name)
    assert autocast_dtype("cpu") is None


def test_settings_that_would_be_ignored_are_refused() -> None:
    for changes in ({"sample_every": "5"}, {"accumulate": "0"}, {"sample_every": "-1"}, {"tensorboard": "perhaps"},
                    {"ema": "nan"}, {"ema": "1"}, {"learning_rate": "-1e-3"}, {"learning_rate": "inf"},
                    {"warmup": "-1"}, {"weight_decay": "nan"}, {"betas": "0.9"}, {"betas": "0.9,1.5"}, {"gamma": "0"},
                    {"save_seconds": "nan"}, {"alone": "-3"}):
        with pytest.raises(UserError):
            configure(SMOKE, {f"train.{name}": value for name, value in changes.items()})
    watched = configure(SMOKE, {"train.sample_every": "5", "train.tensorboard": "true"})
    assert {recipe.sample_every for recipe in watched.train.values()} == {5}


def test_a_torn_log_is_mended(tmp_path: Path) -> None:
    """The log may be ahead of the state when a run is killed; the next run starts from the state's."""
    made = saved(tmp_path, steps=4)
    (tmp_path / "log.csv").write_text("step,mse\n3,1\n6,0.5\n7,", encoding="utf-8")
    shutil.copy(tmp_path / "log.csv", tmp_path / "torn.csv")
    again = trainer("waves", tmp_path)
    assert load_state(again)
    run_trainer(again, until=again.step + 1)
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == log_text(again.rows)
    assert made.step == 4


def test_muon_is_torchs() -> None:
    """Matrices and kernels inside go as torch.optim.Muon takes them, the rest as AdamW; a bad step changes nothing."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Conv2d(8, 12, 3), torch.nn.Linear(12, 4))
    ours, twin = net, copy.deepcopy(net)
    config = TrainConfig(1, learning_rate=1e-2, betas=(0.9, 0.99), optimizer="muon", muon_rate=0.03, weight_decay=0.1)
    mine = Muon(ours, config, ends=("0",))
    kernels = [twin[1].weight, twin[2].weight]
    matrices = [torch.nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    muon = torch.optim.Muon(matrices, lr=0.03, momentum=0.95, nesterov=True, ns_steps=5, weight_decay=0.1)
    rest = [p for p in twin.parameters() if all(p is not kernel for kernel in kernels)]
    adam = torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1, fused=True)
    for step in range(4):
        bad = step == 2
        for p, q in zip(ours.parameters(), twin.parameters(), strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
            if bad:
                p.grad[0] = torch.nan
        mine.found_inf = torch.tensor(float(bad))
        mine.step()
        if bad:
            continue
        for matrix, kernel in zip(matrices, kernels, strict=True):
            matrix.grad = kernel.grad.flatten(1)
        muon.step()
        adam.step()
    for kernel, matrix in zip(kernels, matrices, strict=True):
        kernel.data = matrix.data.view_as(kernel)
    assert same([p.data for p in ours.parameters()], [p.data for p in twin.parameters()])


@pytest.mark.parametrize("task", ["waves", "clipsynth"])
def test_muon_resumes_bit_for_bit(task: str, tmp_path: Path) -> None:
    how = {"steps": 7, "optimizer": "muon", "cooldown": 0.5, "batch": 2, "log_every": 2}
    how |= {"noise": "mixed"} if task == "clipsynth" else {}
    whole = trainer(task, tmp_path / "whole", **how)
    run_trainer(whole)
    for until in (2, 5, None):
        part = trainer(task, tmp_path / "parts", **how)
        assert load_state(part) == (until != 2)
        run_trainer(part, until=until)
    assert outcome(part) == outcome(whole)


def test_a_training_can_grow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cooled down, published, taken up again where the rate began to fall: as if it had been long from the start."""
    whole = trainer("waves", tmp_path / "whole", steps=20, cooldown=5, optimizer="muon")
    run_trainer(whole)
    folder = tmp_path / "grown"
    for steps, cooldown, begins in ((6, 2, 0), (9, 0, 4), (11, 2, 9), (20, 5, 9)):
        part = trainer("waves", folder, steps=steps, cooldown=cooldown, optimizer="muon")
        load_state(part)
        assert part.step == begins
        run_trainer(part)
    assert outcome(part) == outcome(whole)
    assert capsys.readouterr().err.count("going on from step") == 2
    kept = [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    for wrong in ({"steps": 25, "cooldown": 15}, {"steps": 25, "cooldown": 5, "seed": 1}):
        with pytest.raises(UserError, match="other settings or data"):
            load_state(trainer("waves", folder, **{"optimizer": "muon", **wrong}))
    assert kept == [(path.name, path.read_bytes()) for path in sorted(folder.iterdir())]
    cut(folder / "state.pt")
    again = trainer("waves", folder, steps=20, cooldown=5, optimizer="muon")
    assert load_state(again) and again.step >= 9, "a damaged end: the state before it, or the plateau"


def test_a_state_older_than_a_setting_goes_on(tmp_path: Path) -> None:
    saved(tmp_path)
    path = tmp_path / "state.pt"
    old = torch.load(path, weights_only=True)
    for name in ("steps", "cooldown", "optimizer", "muon_rate", "noise", "init"):
        del old["about"]["train"][name]
    del old["origin"]
    torch.save(old, path)
    assert load_state(trainer("waves", tmp_path))


def test_init_starts_from_weights(data: Path) -> None:
    quick = {"steps": 1, "batch": 2, "precision": "fp32"}
    first = train("clipsynth", "mini-music", SMOKE, "cpu", changes=quick)
    assert first
    for source in (str(first), "mini-music/clipsynth", "mini-music/clipsynth.safetensors"):
        changes = {**quick, "init": source}
        made = clipsynth.engine.train.make_trainer("clipsynth-guided", "mini-music", SMOKE, "cpu", changes)
        assert (made.origin["from"], made.origin["sha256"]) == (source, hashlib.sha256(first.read_bytes()).hexdigest())
        assert made.origin["steps"] == load_config(first)["made"]["steps"]
        state = load_weights(first)[0]
        assert all(torch.equal(value, state[name]) for name, value in made.published().state_dict().items())
    second = train("clipsynth-guided", "mini-music", SMOKE, "cpu", changes={**quick, "init": "mini-music/clipsynth"})
    assert second
    about = load_weights(second)[1]["made"]
    assert about["init"]["from"] == about["train"]["init"] == "mini-music/clipsynth"
    assert "init=mini-music/clipsynth" in about["command"]
    first.write_bytes(second.read_bytes())  # what it began from is another file now: the run knows its own
    again = train("clipsynth-guided", "mini-music", SMOKE, "cpu",
                  changes={**quick, "steps": 2, "cooldown": 0, "init": "mini-music/clipsynth"})
    assert again and load_weights(again)[1]["made"]["init"] == about["init"]


@pytest.mark.parametrize("source, said", [
    ("mini-music/clipsynth-text", r"no weights at .*clipsynth-text\.safetensors: train them"),
    ("nowhere", "nowhere is no folder, and no name of a repository: owner/name"),
    ("mini-music/mel-net", r"init=mini-music/mel-net: \d+ tensors do not fit; "),
    ("{data}/wide.safetensors", r"fit; time.first.weight is \(128, 32\) in the file, \(64, 16\) in this n"),
    ("{data}/damaged.safetensors", "is no clipsynth weights file"),
])
def test_init_says_what_does_not_fit(source: str, said: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data / "smoke/weights/mini-music"
    save_weights(folder / "mel-net.safetensors", torch.nn.Linear(2, 2), {"model": "mel-net"})
    save_weights(data / "wide.safetensors", UNet(MINI.unet), {"model": "clipsynth"})
    (data / "damaged.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match=said) as told:
        changes = {"init": source.format(data=data), "precision": "fp32"}
        clipsynth.engine.train.make_trainer("clipsynth", "mini-music", SMOKE, "cpu", changes)
    assert "\n" not in str(told.value)


def test_steps_are_drawn_by_their_law() -> None:
    process, count = Diffusion(), 40_000
    drawn = {law: training_steps(process, count, torch_rng("law"), law) for law in ("uniform", "edm", "mixed")}
    plain = torch.randint(4_000, (count,), generator=torch_rng("law"))
    assert torch.equal(drawn["uniform"], plain), "the paper's draws"
    bins = {law: np.bincount(t * 20 // 4_000, minlength=20) / count for law, t in drawn.items()}
    np.testing.assert_allclose(bins["uniform"], 1 / 20, atol=6e-3)
    sigma = np.sqrt(1 / process.alphas_cumulative - 1)
    edges = np.concatenate([[0], sigma[[200 * i - 1 for i in range(1, 20)]], [np.inf]])  # where t passes 200 i
    with np.errstate(divide="ignore"):
        expected = np.diff(torch.distributions.Normal(-1.5, 1.2).cdf(torch.from_numpy(np.log(edges))).numpy())
    np.testing.assert_allclose(bins["edm"], expected, atol=6e-3)
    np.testing.assert_allclose(bins["mixed"], (bins["uniform"] + expected) / 2, atol=6e-3)


def test_the_papers_recipe_is_the_papers() -> None:
    """Settings that came later leave the paper profile's diffusion training as it was."""
    for dataset, steps in (("music", 100_000), ("vggsound", 500_000)):
        for model in DIFFUSION_MODELS:
            recipe = PAPER.train_of(dataset, model)
            assert (recipe.steps, recipe.batch, recipe.learning_rate) == (steps, 128, 1e-4)
            assert (recipe.betas, recipe.weight_decay, recipe.ema) == ((0.9, 0.999), 0.0, 0.9999)
            assert (recipe.optimizer, recipe.noise, recipe.decay, recipe.init) == ("adamw", "uniform", "constant", "")
            assert {learning_rate(recipe, step) for step in (0, 1, steps // 2, steps - 1)} == {1e-4}
    assert (PAPER.unet, PAPER.diffusion) == (UNetConfig(), DiffusionConfig())
    assert (PAPER.unet.patch, PAPER.unet.channels, PAPER.diffusion.prediction) == (1, 128, "noise")


def test_recipes_that_nobody_knows_are_refused() -> None:
    for name, value in (("optimizer", "sgd"), ("noise", "low"), ("cooldown", "-1"), ("muon_rate", "0")):
        with pytest.raises(UserError, match=name):
            configure(SMOKE, {f"train.{name}": value})
