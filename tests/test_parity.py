"""What the reference implementations printed, and what a notebook is too small for: float64, and files both ways."""
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT

from clipsynth.base.config import UNetConfig, VocoderConfig
from clipsynth.base.process import UserError
from clipsynth.model import samplers
from clipsynth.model.audio import AUDIO
from clipsynth.model.converters import (
    from_official_config,
    load_improved_diffusion,
    load_official,
    load_official_discriminators,
    load_official_state,
    official_config,
    official_state,
    save_official,
)
from clipsynth.model.diffusion import Diffusion
from clipsynth.model.discriminators import Discriminators
from clipsynth.model.unet import GroupNorm
from clipsynth.model.vocoder import Generator, fold
from clipsynth.model.vocoder_config import check_mel

GOLDEN = ROOT / "data/golden"
FILES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in GOLDEN.glob("*.json")}
DDPM, HIFIGAN = FILES["improved-diffusion"]["values"], FILES["hifi-gan"]["values"]


def filled(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """A weight by the rule `fill` of the golden files."""
    draw = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("bias"):
        draw = 0.1 * draw
    elif name.endswith("weight_g") or len(shape) == 1:
        draw = 1 + 0.1 * draw
    else:
        draw = draw / np.sqrt(draw[0].size)
    return torch.from_numpy(draw.astype(np.float32))


def summary(values: torch.Tensor, count: int) -> np.ndarray:
    """Mean, root mean square, projection and some values: `summary` of the golden files."""
    flat = values.detach().double().numpy().ravel()
    some = np.unique(np.linspace(0, flat.size - 1, count).round().astype(int))
    wave = np.cos(np.arange(flat.size))
    return np.array([flat.mean(), np.sqrt((flat**2).mean()), flat @ wave / np.sqrt(flat.size), *flat[some]])


def apart(reference: Any, ours: Any) -> float:
    """The largest difference in units of the largest value."""
    reference = np.asarray(reference)
    return float(np.abs(reference - np.asarray(ours)).max() / np.abs(reference).max())


def test_golden_files_are_small_and_say_where_they_come_from() -> None:
    assert sum(path.stat().st_size for path in GOLDEN.iterdir()) < 400_000
    for content in FILES.values():
        origin = content["origin"]
        assert origin["repository"].startswith("https://github.com/") and len(origin["commit"]) == 40
        assert {"torch", "numpy", "device"} <= set(origin) and {"fill", "summary"} <= set(content)
        assert all("call" in case or "rule" in case for case in content["values"].values())


@pytest.mark.parametrize("name, widths", [
    ("unet 32", {"channels": 32, "multipliers": (1, 2, 3), "blocks": 2, "attention": (8, 4)}),
    ("unet 128", {"channels": 128, "multipliers": (1, 2), "blocks": 1, "attention": (8,)}),
])
def test_unet_in_float64(name: str, widths: dict[str, Any]) -> None:
    """Every layer is the reference's: in float64 nothing but the time's waves is rounded.

    These are float32, as there, and a processor's own exp may differ by one unit in the last place, which t multiplies:
    twelve digits agree on one processor, six on another.
    """
    case = DDPM[name]
    state = {n: filled(n, tuple(shape)) for n, shape in case["layout"].items()}
    net = load_improved_diffusion(state, UNetConfig(**widths), mels=16)
    assert all(part.num_groups == 32 for part in net.modules() if isinstance(part, GroupNorm))
    noisy = np.random.default_rng(5).standard_normal((2, 1, 16, 16)).astype(np.float32)
    net.time.first.register_forward_pre_hook(lambda _, given: (given[0].double(),))  # waves are float32, as there
    with torch.no_grad():
        answer = net.double()(torch.from_numpy(noisy).double(), torch.tensor(case["t"]))
    assert apart(case["float64"]["summary"], summary(answer, 64)) < 1e-5


@pytest.mark.parametrize("version", ["generator V1", "generator V2", "generator V3"])
def test_generator_in_float64(version: str) -> None:
    case = HIFIGAN[version]
    net = Generator(from_official_config(case["config"])[0])
    names = official_state(net)["generator"]
    load_official_state(net, {"generator": {name: filled(name, value.shape) for name, value in names.items()}})
    mel = torch.from_numpy((2 * np.random.default_rng(8).standard_normal((2, 80, 8)) - 4).astype(np.float32))
    with torch.no_grad():
        assert apart(case["float64"]["summary"], summary(net.double()(mel.double()), 128)) < 1e-11
        assert apart(case["float64"]["summary"], summary(fold(net)(mel.double()), 128)) < 1e-11


@pytest.mark.parametrize("name, eta", [("ddim", 0.0), ("ddim eta 0.5", 0.5)])
def test_ddim_trajectory(name: str, eta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same estimates of the data and the same sample, step by step, with the same noise."""
    case, rng = DDPM[f"trajectory {name}"], np.random.default_rng(2)
    process, seen = Diffusion(), list[torch.Tensor]()

    def toy(x: torch.Tensor, time: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        level = torch.sin(time.view(-1, 1, 1, 1) * (np.pi / 2000))
        return torch.cat([0.8 * level * x + 0.1 * torch.sin(3 * x), torch.tanh(x)], 1)

    def draw() -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((2, 1, 4, 4)).astype(np.float32))

    monkeypatch.setattr(samplers, "noise_source", lambda *_: draw)
    made = samplers.ddim(process, toy, torch.zeros(2, 1), eta=eta, seeds=[0, 1], shape=(1, 4, 4),
                         steps=process.respace(25).kept[::-1].tolist(), callback=lambda _, x: seen.append(x.clone()))
    shape = case["shape"]
    guesses = np.reshape(case["pred_xstart float64"], shape)
    assert max(apart(guesses[row], seen[step]) for row, step in enumerate(case["steps"])) < 1e-5
    assert apart(np.reshape(case["sample float64"], shape)[-1], made) < 1e-5


def test_official_files_there_and_back(tmp_path: Path) -> None:
    """Discriminators and their generator, with what the public code's training reads when it goes on."""
    config = VocoderConfig(channels=64)
    generator, discriminators = Generator(config), Discriminators(config).eval()
    save_official(tmp_path, generator, discriminators, AUDIO, steps=7)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "do_00000007", "g_00000007"]
    again = load_official(tmp_path / "g_00000007", folded=False)
    assert again.audio is not None and again.config == config
    check_mel(again.audio, AUDIO)
    state = generator.state_dict()
    assert all(torch.equal(state[name], value) for name, value in again.state_dict().items())
    loaded = load_official_discriminators(tmp_path / "do_00000007").state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in discriminators.state_dict().items())
    checkpoint = torch.load(tmp_path / "do_00000007", weights_only=True)
    assert set(checkpoint) == {"mpd", "msd", "optim_g", "optim_d", "steps", "epoch"}
    assert checkpoint["mpd"]["discriminators.0.convs.0.weight_v"].shape == (32, 1, 5, 1)
    assert checkpoint["msd"]["discriminators.0.convs.0.weight_orig"].shape == (128, 1, 15)
    for optimizer, parameters in (("optim_g", generator.parameters()), ("optim_d", discriminators.parameters())):
        assert len(checkpoint[optimizer]["param_groups"][0]["params"]) == len(list(parameters))


@pytest.mark.parametrize("change, said", [
    ({"upsample_rates": [8, 8, 2, 2]}, "multiply to 256, not to the hop 1024"),
    ({"upsample_kernel_sizes": [16, 16, 8, 9]}, "plus an even number"),
    ({"segment_size": 10_000}, "not a whole number of hops of 1024"),
    ({"sampling_rate": 22_050}, "sample rate 16000, not 22050"),
    ({"num_mels": 80}, "number of bands 64, not 80"),
    ({"n_fft": None}, "n_fft"),
    ({"upsample_initial_channel": 128}, "do not fit the configuration"),
])
def test_a_configuration_that_cannot_work_is_explained(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = save_official(tmp_path, Generator(VocoderConfig(channels=64)))
    config = {**official_config(VocoderConfig(channels=64)), **change}
    config = {name: value for name, value in config.items() if name != "n_fft" or value}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match=said) as refused:
        load_official(path, audio=AUDIO)
    assert "\n" not in str(refused.value)
