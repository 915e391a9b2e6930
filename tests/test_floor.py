"""The vocoder's share: what the notebook takes on trust."""
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipsynth.base.config import DiffusionConfig, TrainConfig, UNetConfig
from clipsynth.base.hashing import numpy_rng, torch_rng
from clipsynth.base.places import weights_file
from clipsynth.base.process import UserError
from clipsynth.base.profiles import profile
from clipsynth.base.weights import load_weights, save_weights
from clipsynth.engine.loop import run
from clipsynth.engine.trainer import Trainer
from clipsynth.model.audio import AUDIO, denormalize, log_mel, normalize
from clipsynth.model.diffusion import Diffusion
from clipsynth.model.phase import griffin_lim
from clipsynth.model.unet import UNet
from clipsynth.model.vocoder import Generator
from clipsynth.results.copy_measures import in_tune, pitch
from clipsynth.results.fine_tuning import (
    FineTuneTask,
    MelPairs,
    fine_tuning_config,
    model_like_mels,
)


def some_mels(count: int, *name: object) -> torch.Tensor:
    """Mels of noise that swells, (count, 64, 64) in [-1, 1]."""
    sound = torch.randn(count, 65_536, generator=torch_rng(*name)) * torch.linspace(0.01, 0.2, 65_536)
    return normalize(log_mel(sound))


@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_model_like_mels_stay_in_step_at_low_strength(prediction: str) -> None:
    torch.manual_seed(0)
    process = Diffusion(DiffusionConfig(timesteps=400, prediction=prediction))
    unet = UNet(UNetConfig(channels=16, multipliers=(1, 2), blocks=1, attention=(), heads=2, patch=4, condition=8))
    unet.eval()
    mel, condition = some_mels(3, "step"), torch.randn(3, 8, generator=torch_rng("condition"))
    far = {strength: (model_like_mels(process, unet, mel, condition, [0, 1, 2], strength, 4, 2) - mel).abs().mean()
           for strength in (0.0025, 0.9)}
    assert far[0.0025] < 0.03 < 5 * far[0.0025] < far[0.9]
    again = model_like_mels(process, unet, mel[1:2], condition[1:2], [1], 0.9, 4)
    whole = model_like_mels(process, unet, mel, condition, [0, 1, 2], 0.9, 4)
    assert torch.allclose(again[0], whole[1], atol=1e-4), "a mel depends on its own seed, not on its neighbours"
    with pytest.raises(UserError, match="strength 0"):
        model_like_mels(process, unet, mel, condition, [0, 1, 2], 0.0)


def test_griffin_lim_is_seeded() -> None:
    mel = denormalize(some_mels(2, "griffin"))
    first, second = griffin_lim(mel, iterations=2), griffin_lim(mel, iterations=2)
    assert first.shape == (2, 65_536) and torch.equal(first, second)
    assert not torch.equal(first, griffin_lim(mel, iterations=2, seed=1))


def test_silence_has_no_pitch_and_no_error() -> None:
    silence = torch.zeros(2, 8_192)
    heights, periodicity = pitch(silence)
    assert heights.isfinite().all() and periodicity.max() == 0
    assert in_tune(silence, silence)[1].sum() == 0


@pytest.mark.parametrize("name", ["smoke", "mini", "paper"])
def test_fine_tuning_is_short_and_gentle(name: str) -> None:
    own = profile(name).train["hifigan"]
    config = fine_tuning_config(own)
    assert 2 <= config.steps <= max(2, own.steps / 25) and config.learning_rate < own.learning_rate
    assert config.alone == (0 if name == "paper" else config.steps) and config.batch == own.batch


class NoStore:
    """A feature store that the task may ask and never read."""
    def __init__(self, folder: object, profile: object = None) -> None:
        self.audio, self.digest = np.zeros((1, 65_536), np.int16), "none"

    def rows(self, split: str) -> np.ndarray:
        return np.arange(1)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch, tmp_path) -> FineTuneTask:
    """A task on noise, from published weights of a tiny vocoder, in a data folder of its own."""
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    monkeypatch.setattr("clipsynth.engine.diffusion_task.Store", NoStore)
    torch.manual_seed(0)
    smoke = profile("smoke")
    path = weights_file(smoke, "noise", "hifigan", new=True)
    save_weights(path, Generator(smoke.hifigan), {"vocoder": smoke.hifigan})
    sound = torch.randn(3, 65_536, generator=torch_rng("pairs")) * 0.1
    samples = (sound.numpy() * 32_767).round().clip(-32_767, 32_767).astype(np.int16)
    return FineTuneTask(smoke, "noise", MelPairs(samples, normalize(log_mel(sound)).numpy()), alone=9)


def test_fine_tuning_begins_at_the_published_weights_and_moves_on(task: FineTuneTask, tmp_path) -> None:
    published, _ = load_weights(weights_file("smoke", "noise", "hifigan"))
    assert all(torch.equal(tensor, published[name]) for name, tensor in task.generator.state_dict().items())
    config = TrainConfig(steps=3, batch=2, learning_rate=1e-3, ema=0.0, precision="fp32", log_every=1)
    trainer = Trainer(task, config, tmp_path / "run", {})
    run(trainer)
    after = trainer.published().state_dict()
    assert any(not torch.equal(after[name], tensor) for name, tensor in published.items())
    assert all(tensor.isfinite().all() for tensor in after.values())


def test_generator_hears_the_mel_of_the_pair(task: FineTuneTask) -> None:
    batch = task.batch(numpy_rng("a"), 2)
    length = task.vocoder_config.segment
    assert batch["sound"].shape == (2, length) and batch["mel"].shape == (2, AUDIO.mels, length // AUDIO.hop)
    deaf = {**batch, "mel": torch.zeros_like(batch["mel"])}
    losses = [next(task.losses(b))[1].item() for b in (batch, deaf, {"sound": batch["sound"]})]
    assert abs(losses[0] - losses[1]) > 1e-3 * losses[0] and np.isfinite(losses).all()


def test_pairs_are_part_of_what_a_run_is(task: FineTuneTask) -> None:
    other = FineTuneTask(profile("smoke"), "noise", task.pairs._replace(mel=task.pairs.mel[::-1].copy()))
    assert other.config() != task.config()
    same = FineTuneTask(replace(profile("smoke")), "noise", task.pairs)
    assert same.config() == task.config()
