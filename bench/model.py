"""The networks beside their alternatives, in the same run, and how they grow: bench/results/model.json.

conditioning  a training step of the paper's U-Net: the query as nine values, as channels that are built, none at all
training      a training step of a narrow U-Net beside improved-diffusion's own, without and with a query
vocoder       HiFi-GAN in every form beside the public code's generator with the same weights, on one and two threads
voices        the mini profile's vocoders by name: the magnitude network, HiFi-GAN, Griffin-Lim, on one thread
denoiser      one evaluation of the committed U-Net: eager, compiled, ONNX
command       `clipsynth synth violin` in a fresh process, beside an older checkout's (`--before`); and 512 mels
growth        time and memory of a U-Net against width, length and batch
memory        peak memory of a training step by conditioning, and of `continue_sampling` for a short and a long sound

Each time is a median over rounds in which all ways take their turns; on one thread it is computing time, which other
work on the machine does not stretch, on more it is the wall clock. The references are imported from a folder that
holds `improved-diffusion` and `hifi-gan`; without it what needs it is left out. model/costs shows the results.

Usage: python bench/model.py --reference FOLDER [--only vocoder] [--tiny]      (about 10 minutes on two quiet cores)
"""

import argparse
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from configparser import ConfigParser
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch
import torch.nn.functional as F
from timing import Times, in_fresh_process, in_turns, machine, medians, peak_megabytes, save, spent, times_faster
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from clipsynth.base.config import UNetConfig, VocoderConfig
from clipsynth.base.hashing import torch_rng
from clipsynth.base.places import weights_file
from clipsynth.base.profiles import MINI
from clipsynth.engine.sampling import load_denoiser
from clipsynth.engine.synth import Synthesizer
from clipsynth.model.audio import log_mel
from clipsynth.model.conditioning import ConditionedConv2d
from clipsynth.model.converters import load_improved_diffusion, official_state
from clipsynth.model.diffusion import Diffusion
from clipsynth.model.editing import continue_sampling
from clipsynth.model.export import OnnxModel, export_onnx, export_torchscript
from clipsynth.model.magnitude import VOCODERS, load_vocoder
from clipsynth.model.samplers import dpm_solver
from clipsynth.model.unet import UNet
from clipsynth.model.vocoder import Generator, fold, vocode

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results" / "model.json"
PAPER, TINY = UNetConfig(), UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(16,), heads=2, patch=2)
NARROW = UNetConfig(channels=32)
THREADS = (1, 2)
WAYS = ("nine values", "built channels", "no query")


def devices() -> list[str]:
    """What there is to measure on."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def parameters(net: nn.Module) -> int:
    """How many numbers a network learns."""
    return sum(p.numel() for p in net.parameters())


def awake(net: nn.Module) -> nn.Module:
    """The same network with no layer that is zero, so that no gradient is."""
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02, generator=torch_rng("bench awake"))
    return net


# ---- the query, three ways


def built(layer: ConditionedConv2d, features: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """The plain way: the query at every position, as channels."""
    repeated = condition[:, :, None, None].expand(-1, -1, *features.shape[-2:])
    return F.conv2d(torch.cat([features, repeated], 1), layer.weight, layer.bias, layer.stride, layer.padding)


@contextmanager
def conditioned(way: str):
    """While this lasts, every U-Net concatenates its query this way."""
    kept = ConditionedConv2d.forward
    if way == "built channels":
        ConditionedConv2d.forward = built  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        ConditionedConv2d.forward = kept  # type: ignore[method-assign]


class Step:
    """Forward, hybrid loss and backward of one batch."""

    def __init__(self, net: nn.Module, batch: int, width: int, way: str = "nine values", device: str = "cpu"):
        draw = partial(torch.randn, generator=torch_rng("bench step"))
        process = Diffusion()
        noise, condition = draw(batch, 1, 64, 64).to(device), draw(batch, width).to(device)
        x0 = draw(batch, 1, 64, 64).to(device).clamp(-1, 1)
        t = torch.randint(len(process), (batch,), generator=torch_rng("bench t")).to(device)
        self.net, self.way, self.given = net, way, (process, x0, t, condition, noise)

    def __call__(self) -> torch.Tensor:
        """One step; the gradients stay."""
        process, *given = self.given
        self.net.zero_grad(set_to_none=True)
        with conditioned(self.way):
            loss = process.losses(self.net, *given)["loss"].mean()
            loss.backward()
        return loss.detach()


def nets(config: UNetConfig) -> dict[str, UNet]:
    """The network by way; the first two are one and the same."""
    torch.manual_seed(0)
    with_query, without = UNet(config), UNet(replace(config, conditioning="none"))
    awake(with_query), awake(without)
    return dict(zip(WAYS, (with_query, with_query, without), strict=True))


def flops(config: UNetConfig) -> dict[str, dict[str, float]]:
    """Multiplications and additions for one example, forward and in a whole step, counted on shapes alone."""
    counts = {}
    for way in WAYS:
        with torch.device("meta"):
            net = UNet(replace(config, conditioning="none") if way == "no query" else config)
            given = torch.randn(1, 1, 64, 64), torch.rand(1), torch.randn(1, config.condition)
            with conditioned(way), FlopCounterMode(display=False) as forward:
                answer = net(*given)
            with FlopCounterMode(display=False) as backward:
                answer.sum().backward()
        ahead, behind = forward.get_total_flops(), backward.get_total_flops()
        counts[way] = {"forward": ahead, "step": ahead + behind}
    return counts


def conditioning(options: argparse.Namespace) -> dict:
    """A training step of the paper's U-Net with each kind of query."""
    config = TINY if options.tiny else PAPER
    three = nets(config)
    result: dict = {"parameters": {way: parameters(net) for way, net in three.items()}, "flops": flops(config)}
    for device in devices():
        three, rows = {way: net.to(device) for way, net in three.items()}, []
        slow = device == "cpu"
        for batch, rounds in ((1, 5), (2, 4), (4, 3)) if slow else ((1, 10), (8, 10), (32, 10)):
            steps = {way: Step(net, batch, config.condition, way, device) for way, net in three.items()}
            if batch == 1:
                losses = [float(steps[way]()) for way in WAYS[:2]]
                assert abs(losses[0] - losses[1]) < 1e-3 * abs(losses[0]), losses
            times = in_turns(steps, rounds, warm=batch == 1 or not slow)
            rows.append({"batch": batch, "seconds": medians(times)} | compared(times))
            print(device, rows[-1], flush=True)
        adam = {way: torch.optim.AdamW(net.parameters(), 1e-9, fused=True) for way, net in three.items()}
        for way in WAYS[1:]:
            Step(three[way], 1, config.condition, way, device)()
        update = medians(in_turns({way: adam[way].step for way in WAYS[1:]}, 5))
        result[device] = {"steps": rows, "update": {"with query": update[WAYS[1]], "no query": update[WAYS[2]]}}
        print(device, result[device]["update"], flush=True)
    return result


def compared(times: Times) -> dict[str, float]:
    """The two ratios that matter."""
    return {"faster than built": times_faster(times, "built channels", "nine values"),
            "slower than none": times_faster(times, "nine values", "no query")}


# ---- beside improved-diffusion


def improved_diffusion(folder: Path) -> ModuleType:
    """The reference, without MPI and remote files: the modules that its training wants are not installed."""
    for name in ("mpi4py", "blobfile"):
        sys.modules.setdefault(name, ModuleType(name))
    sys.modules["mpi4py"].MPI = SimpleNamespace()  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder / "improved-diffusion"))
    from improved_diffusion import script_util, train_util, unet

    alone = SimpleNamespace(get_world_size=lambda: 1, get_rank=lambda: 0)
    train_util.dist = alone
    train_util.logger = SimpleNamespace(logkv=lambda *_: None, logkv_mean=lambda *_: None)
    here = torch.device(devices()[-1])
    train_util.dist_util = SimpleNamespace(dev=lambda: here, sync_params=lambda _: None)
    train_util.DDP = lambda net, **_: net  # one card, one process
    return SimpleNamespace(unet=unet, train=train_util, script=script_util)  # type: ignore[return-value]


class BuiltQuery(nn.Conv2d):
    """A convolution of the reference, widened for a query that is repeated everywhere: the plain way."""

    query: torch.Tensor

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        repeated = self.query[:, :, None, None].expand(-1, -1, *features.shape[-2:])
        return super().forward(torch.cat([features, repeated], 1))


class Asked(nn.Module):
    """The reference's U-Net with a query at the first convolution of every block."""

    def __init__(self, net: nn.Module, kind: type, width: int):
        super().__init__()
        self.net, self.wide = net, []
        for block in [part for part in net.modules() if isinstance(part, kind)]:
            old = block.in_layers[2]
            block.in_layers[2] = BuiltQuery(old.in_channels + width, old.out_channels, 3, padding=1)
            self.wide.append(block.in_layers[2])

    def forward(self, x: torch.Tensor, timesteps: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        for layer in self.wide:
            layer.query = query
        return self.net(x, timesteps)


def reference_net(code, config: UNetConfig) -> nn.Module:
    """Its U-Net with our widths; patches that ours folds into channels are channels here."""
    channels, height = config.patch**2, 64 // config.patch
    return code.unet.UNetModel(
        in_channels=channels, model_channels=config.channels, out_channels=2 * channels, num_res_blocks=config.blocks,
        attention_resolutions=tuple(height // at for at in config.attention), channel_mult=config.multipliers,
        num_heads=config.heads, use_scale_shift_norm=True)


class TheirStep:
    """What `TrainLoop.run_step` of the reference does with a batch."""

    def __init__(self, code, net: nn.Module, batch: torch.Tensor, query: torch.Tensor | None):
        process = code.script.create_gaussian_diffusion(
            steps=4000, learn_sigma=True, noise_schedule="cosine", rescale_timesteps=True, rescale_learned_sigmas=True)
        self.batch, self.cond = batch, {} if query is None else {"query": query}
        self.loop = code.train.TrainLoop(
            model=net, diffusion=process, data=None, batch_size=len(batch), microbatch=-1, lr=1e-4, ema_rate="0.9999",
            log_interval=10**9, save_interval=10**9, resume_checkpoint="")

    def __call__(self) -> None:
        self.loop.run_step(self.batch, self.cond)


class OurStep:
    """What our trainer does with a batch: loss, backward, AdamW, the average, and its logs."""

    def __init__(self, net: UNet, batch: torch.Tensor, query: torch.Tensor, mixed: bool = False):
        self.step, self.mixed, self.batch = Step(net, len(batch), query.shape[1]), mixed, batch
        self.average = copy.deepcopy(net).requires_grad_(False)
        self.optimiser = torch.optim.AdamW(net.parameters(), 1e-4, weight_decay=0.0, fused=True)

    def __call__(self) -> None:
        process, _, t, condition, noise = self.step.given
        self.step.given = (process, self.batch, torch.randint_like(t, len(process)), condition, torch.randn_like(noise))
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
            float(self.step())
        self.optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.step.net.parameters()), 1e-4)


def training(options: argparse.Namespace) -> dict:
    """A whole training step of ours and of the reference, of the same layers, without and with a query."""
    if options.reference is None:
        return {}
    code, config, size = improved_diffusion(options.reference), NARROW, 1 if options.tiny else 8
    torch.manual_seed(0)
    batch, query = torch.randn(size, 1, 64, 64).clamp(-1, 1), torch.randn(size, config.condition)
    theirs = awake(reference_net(code, config))
    ours = load_improved_diffusion(theirs.state_dict(), config).train()
    t = torch.rand(size) * 1000
    with torch.no_grad():
        apart = float((theirs(batch, t) - ours(batch, t)).abs().max())
    assert apart < 1e-3, apart
    wide = Asked(copy.deepcopy(theirs), code.unet.ResBlock, config.condition)
    asked = awake(UNet(config))
    assert parameters(wide) == parameters(asked)
    counts = {"no query": parameters(ours), "with query": parameters(asked)}
    ways = {
        "reference, no query": TheirStep(code, theirs, batch, None),
        "ours, no query": OurStep(ours, batch, query),
        "ours, no query, bf16": OurStep(copy.deepcopy(ours), batch, query, mixed=True),
        "reference, query in built channels": TheirStep(code, wide, batch, query),
        "ours, query as nine values": OurStep(asked, batch, query),
        "ours, query as nine values, bf16": OurStep(copy.deepcopy(asked), batch, query, mixed=True),
    }
    times, names = in_turns(ways, options.rounds), list(ways)
    pairs = {ours: theirs for theirs, *both in (names[:3], names[3:]) for ours in both}
    result = {"batch": size, "parameters": counts, "seconds": medians(times),
              "times faster": {ours: times_faster(times, theirs, ours) for ours, theirs in pairs.items()}}
    print(result, flush=True)
    return result


# ---- vocoders


def public_generator(folder: Path, generator: Generator) -> nn.Module:
    """The public code's generator with our weights; the 80 bands written into it are put right."""
    sys.path.insert(0, str(folder / "hifi-gan"))
    import models
    from env import AttrDict

    config = generator.config
    net = models.Generator(AttrDict(
        resblock=config.resblock, upsample_rates=config.upsample_rates, upsample_kernel_sizes=config.upsample_kernels,
        upsample_initial_channel=config.channels, resblock_kernel_sizes=config.resblock_kernels,
        resblock_dilation_sizes=config.resblock_dilations))
    net.conv_pre = torch.nn.utils.weight_norm(nn.Conv1d(config.mels, config.channels, 7, padding=3))
    net.load_state_dict(official_state(generator)["generator"])
    return net.eval()


def forms(generator: Generator, options: argparse.Namespace, device: str, room: Path) -> dict:
    """Every way to compute a vocoder, as functions of a mel on the CPU or the GPU."""
    folded = Generator(generator.config)
    folded.load_state_dict(generator.state_dict())
    fold(folded)
    ways = {"eager": generator, "folded": folded}
    if options.reference is not None:
        for name in ("reference", "reference, folded"):
            net = public_generator(options.reference, generator)
            with redirect_stdout(None):
                net.remove_weight_norm() if "folded" in name else None
            ways[name] = net
    ways = {name: net.to(device) for name, net in ways.items()}
    script = export_torchscript(folded, room / "v.pt", device=device)
    ways["TorchScript"] = torch.jit.load(str(script), map_location=device)
    if shutil.which("g++") and not options.tiny:
        ways["compiled"] = torch.compile(ways["folded"])
    if device == "cpu":
        onnx = OnnxModel(export_onnx(folded, room / "v.onnx"))
        ways["ONNX"] = lambda mel: torch.from_numpy(onnx(mel.numpy()))
    return ways


def vocoder(options: argparse.Namespace) -> dict:
    """Times real time of every form of HiFi-GAN V1 and of the small one."""
    result: dict = {}
    small = replace(MINI.hifigan, noise=False)  # the public code has no noise in its stages
    sizes = {"V1": VocoderConfig(channels=32) if options.tiny else VocoderConfig(), "small": small}
    for name, config in sizes.items():
        torch.manual_seed(0)
        generator, mel = Generator(config).eval(), torch.randn(1, config.mels, 64) - 4
        count = parameters(fold(copy.deepcopy(generator)))  # folding keeps no parameter that needs no gradient
        generator.requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            generator(mel)
        result[name] = {"parameters": count,
                        "flops per second of sound": counter.get_total_flops() / 4.096}
        for device in devices():
            for threads in THREADS if device == "cpu" else (1,):
                torch.set_num_threads(threads)
                with tempfile.TemporaryDirectory() as room, torch.no_grad():
                    ways, here = forms(copy_of(generator), options, device, Path(room)), mel.to(device)
                    answers = {way: net(here).reshape(1, -1) for way, net in ways.items()}
                    assert all((a - answers["eager"]).abs().max() < 1e-4 for a in answers.values())
                    times = in_turns({way: partial(net, here) for way, net in ways.items()}, options.rounds)
                speeds = {way: 4.096 / seconds for way, seconds in medians(times).items()}
                faster = {way: times_faster(times, "reference", way) for way in ways if "reference" in ways}
                key = f"{threads} threads" if device == "cpu" else device
                result[name][key] = {"times real time": speeds, "times the reference": faster}
                print(name, key, result[name][key], flush=True)
    torch.set_num_threads(options.threads)
    return result


def voices(options: argparse.Namespace) -> dict:
    """Times real time of the mini profile's vocoders, as `Synthesizer` calls them, on one thread in one run."""
    result: dict = {"parameters": {}}
    made = {}
    for name in VOCODERS:
        path = None if name == "griffin-lim" else weights_file("mini", "mini-music", name)
        made[name] = load_vocoder(name, path)
        result["parameters"][name] = parameters(made[name])
    torch.set_num_threads(1)
    for batch in (1,) if options.tiny else (1, 16):
        mel = log_mel(0.1 * torch.randn(batch, 65_536, generator=torch_rng("bench voices")))
        times = in_turns({name: partial(vocode, net, mel) for name, net in made.items()}, options.rounds)
        speeds = {name: 4.096 * batch / seconds for name, seconds in medians(times).items()}
        faster = {name: times_faster(times, "hifigan", name) for name in made}
        result[f"{batch} at a time"] = {"times real time": speeds, "times HiFi-GAN": faster}
        print(batch, result[f"{batch} at a time"], flush=True)
    torch.set_num_threads(options.threads)
    return result


def copy_of(generator: Generator) -> Generator:
    """An independent copy that keeps its weight normalisation."""
    other = Generator(generator.config)
    other.load_state_dict(generator.state_dict())
    return other.eval().requires_grad_(False)


# ---- one evaluation


def denoiser(options: argparse.Namespace) -> dict:
    """The committed U-Net of MiniMUSIC: seconds for one evaluation."""
    net, _ = load_denoiser(weights_file("mini", "mini-music", "clipsynth"))
    result: dict = {"parameters": parameters(net)}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as room, torch.no_grad():
        onnx = OnnxModel(export_onnx(net, Path(room, "u.onnx")))
        ways = {"eager": net, "ONNX": lambda *given: torch.from_numpy(onnx(*(tensor.numpy() for tensor in given)))}
        if shutil.which("g++") and not options.tiny:
            ways["compiled"] = torch.compile(net)
        for batch in (1, 16):
            rng = torch_rng("bench denoiser", batch)
            noisy, query = torch.randn(batch, 1, 64, 64, generator=rng), torch.randn(batch, 64, generator=rng)
            given = noisy, torch.full((batch,), 500.0), query
            assert all((way(*given) - net(*given)).abs().max() < 1e-4 for way in ways.values())
            times = in_turns({name: partial(way, *given) for name, way in ways.items()}, 2 * options.rounds + 1)
            faster = {name: times_faster(times, "eager", name) for name in ways}
            result[f"batch {batch}"] = {"seconds": medians(times), "times faster": faster}
            print(result[f"batch {batch}"], flush=True)
    torch.set_num_threads(options.threads)
    return result


# ---- from a word to a file, and many mels


def command_of(checkout: Path) -> list[str]:
    """What runs the command line of a checkout, installed or not."""
    ini = ConfigParser()
    ini.read(checkout / "settings.ini")
    module, _, function = ini["DEFAULT"]["console_scripts"].partition("=")[2].partition(":")
    return [sys.executable, "-c", f"from {module} import {function}; {function}()"]


def command(options: argparse.Namespace) -> dict:
    """Seconds from a cold start to a file, in turns with an older checkout; and of 512 mels on all threads."""
    checkouts = {"this": ROOT} | ({"before": options.before} if options.before else {})
    result: dict = {}
    with tempfile.TemporaryDirectory() as room:

        def cold(checkout: Path) -> None:
            words = ["synth", "violin", "-o", f"{room}/violin.wav", "--device", "cpu"]
            surroundings = os.environ | {"PYTHONPATH": str(checkout), "CLIPSYNTH_DATA": room}
            subprocess.run([*command_of(checkout), *words], check=True, env=surroundings, cwd=room, capture_output=True)

        torch.set_num_threads(2)  # `in_turns` then takes the wall's clock: other processes compute
        times = in_turns({name: partial(cold, checkout) for name, checkout in checkouts.items()}, options.rounds)
        result["cold start, seconds"] = medians(times)
        if options.before:
            result["times faster"] = times_faster(times, "before", "this")
        count, steps = (4, 2) if options.tiny else (512, 25)
        model = Synthesizer("mini-music", device="cpu")
        words = model.embed_text(["violin"]).repeat(count, 1)
        seconds = spent(lambda: model.mels(words, range(count), steps))
        result["mels"] = {"count": count, "evaluations": steps, "minutes on all threads": seconds / 60}
    torch.set_num_threads(options.threads)
    print(result, flush=True)
    return result


# ---- growth, and memory: in processes of their own


def child_evaluation(channels: int, frames: int, batch: int, threads: int) -> dict:
    """Seconds and memory of one evaluation of a U-Net with the paper's layers."""
    torch.set_num_threads(threads)
    device = devices()[-1]
    net = awake(UNet(replace(PAPER, channels=channels))).eval().requires_grad_(False).to(device)
    given = torch.randn(batch, 1, 64, frames), torch.rand(batch), torch.randn(batch, 512)
    given = [tensor.to(device) for tensor in given]
    megabytes = peak_megabytes(lambda: net(*given))
    seconds = medians(in_turns({"one": partial(net, *given)}, 3, warm=0))["one"]
    return {"seconds": seconds, "megabytes": megabytes, "device": device}


def child_step(way: str, batch: int, tiny: bool, threads: int) -> dict:
    """Memory of a training step beside the network itself: activations and gradients."""
    torch.set_num_threads(threads)
    config, device = TINY if tiny else PAPER, devices()[-1]
    net = awake(UNet(replace(config, conditioning="none") if way == "no query" else config)).to(device)
    return {"megabytes": peak_megabytes(Step(net, batch, config.condition, way, device)), "device": device}


def child_continued(seconds: float, steps: int, threads: int) -> dict:
    """Memory of a sound of some length, window after window, each given away at once."""
    torch.set_num_threads(threads)
    net, process = load_denoiser(weights_file("mini", "mini-music", "clipsynth"))
    frames, made = round(seconds * 16_000 / 1_024), []

    def work() -> None:
        pieces = continue_sampling(dpm_solver, process, net, torch.randn(1, 64), frames, seeds=[0], steps=steps)
        made.extend(piece.shape[-1] for piece in pieces)

    megabytes = peak_megabytes(work)
    assert sum(made) == frames
    return {"megabytes": megabytes, "windows": len(made)}


CHILDREN = {"evaluation": child_evaluation, "step": child_step, "continued": child_continued}


def growth(options: argparse.Namespace) -> dict:
    """One evaluation against width, length and batch, the others held at 64 channels, 64 frames, one example."""
    middle = {"channels": 64, "frames": 64, "batch": 1}
    axes = {"channels": (32, 64, 128), "frames": (64, 128, 256, 512), "batch": (1, 2, 4, 8)}
    if options.tiny:
        axes = {"channels": (32,), "frames": (64, 128), "batch": (1, 2)}
    known: dict[str, dict] = {}
    result: dict = {}
    for axis, values in axes.items():
        rows = []
        for value in values:
            point = middle | {axis: value}
            key = json.dumps(point)
            known[key] = known.get(key) or child(options, what="evaluation", **point)
            rows.append({axis: value} | known[key])
        result[axis] = rows
        print(axis, rows, flush=True)
    return result


def memory(options: argparse.Namespace) -> dict:
    """Peak memory of a training step by conditioning, and of continuation."""
    batch = 2
    step = {way: child(options, what="step", way=way, batch=batch, tiny=options.tiny) for way in WAYS}
    lengths = {seconds: child(options, what="continued", seconds=seconds, steps=4) for seconds in (8, 60)}
    ratio = lengths[60]["megabytes"] / lengths[8]["megabytes"]
    result = {"step": {"batch": batch} | step, "continued": {"8 s": lengths[8], "60 s": lengths[60], "ratio": ratio}}
    print(result, flush=True)
    return result


def child(options: argparse.Namespace, **words: object) -> dict:
    """Measure in a fresh process."""
    return in_fresh_process(__file__, threads=options.threads, **words)


PARTS = {part.__name__: part for part in (conditioning, training, vocoder, voices, denoiser, command, growth, memory)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, help="folder with improved-diffusion and hifi-gan")
    parser.add_argument("--before", type=Path, help="an older checkout, whose command is timed beside this one's")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts; other results are kept")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="where nothing else is said")
    parser.add_argument("--tiny", action="store_true", help="try the script; nothing is written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["CLIPSYNTH_QUIET"] = "1"
    warnings.simplefilter("ignore")
    if options.child:
        words = json.loads(options.child)
        print(json.dumps(CHILDREN[words.pop("what")](**words)))
        return
    torch.set_num_threads(options.threads)
    about = {"with": machine() | {"threads": options.threads}}
    fresh = {name: about | PARTS[name](options) for name in options.only}
    if not options.tiny:
        save(RESULTS, (json.loads(RESULTS.read_text()) if RESULTS.exists() else {}) | fresh)


if __name__ == "__main__":
    main()
