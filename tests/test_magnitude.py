"""The magnitude vocoder: what its notebook takes on trust."""
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import RandomStore

import clipsynth.engine.train
from clipsynth.base.config import AudioConfig, MagnitudeConfig
from clipsynth.base.hashing import torch_rng
from clipsynth.base.places import owner_of, weights_file
from clipsynth.base.process import UserError
from clipsynth.base.profiles import MINI, PAPER, SMOKE
from clipsynth.base.settings import configure
from clipsynth.base.weights import save_weights
from clipsynth.engine.cards import WEIGHTS
from clipsynth.engine.hub import from_pretrained, save_pretrained
from clipsynth.engine.loop import run
from clipsynth.engine.state import load_state, save_state
from clipsynth.engine.synth import Synthesizer
from clipsynth.engine.train import make_trainer
from clipsynth.model.audio import AUDIO, LOW, filters, log_mel
from clipsynth.model.converters import save_official
from clipsynth.model.magnitude import (
    VOCODERS,
    GriffinLim,
    MagnitudeNet,
    consistent,
    load_magnitude,
    load_vocoder,
    magnitude_losses,
    smooth_base,
)
from clipsynth.model.phase import PEAK, limit_peaks, magnitudes, recover_phase
from clipsynth.model.vocoder import Generator, vocode
from clipsynth.results.bench import Bench

TINY = MagnitudeConfig(channels=16, hidden=32, blocks=2, head=32, iterations=3)


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch_rng("magnitude test", *shape)) * 0.05


@pytest.fixture
def net() -> MagnitudeNet:
    torch.manual_seed(0)
    return MagnitudeNet(TINY).eval()


@pytest.mark.parametrize("kind", ["net", "griffin-lim"])
@pytest.mark.parametrize("frames", [1, 2, 65])
def test_any_length_and_any_batch(net: MagnitudeNet, kind: str, frames: int) -> None:
    voice = net if kind == "net" else GriffinLim(iterations=3)
    mel = log_mel(noise(3, frames * AUDIO.hop + (1_024 if frames == 1 else 0)))[..., :frames]
    sounds = vocode(voice, mel, batch=2)
    assert sounds.shape == (3, frames * AUDIO.hop) and sounds.isfinite().all()
    alone = torch.stack([vocode(voice, one) for one in mel])
    assert (alone - sounds).abs().max() < 1e-4, "a sound depends on its neighbours"
    assert torch.equal(vocode(voice, mel), vocode(voice, mel)), "no draw is free"


def test_silence_stays_silent(net: MagnitudeNet) -> None:
    sounds = vocode(net, torch.full((2, 64, 8), LOW))
    assert sounds.isfinite().all() and sounds.abs().max() < 1e-2


@pytest.mark.parametrize("voice", [MagnitudeNet(TINY).eval(), GriffinLim(iterations=5)], ids=["net", "griffin-lim"])
def test_a_piece_is_cut_from_the_whole(voice: Any) -> None:
    mel, edge = log_mel(noise(1, 300 * AUDIO.hop)) - 1, voice.margin
    whole = vocode(voice, mel)
    begin, end = 255, 270  # where the first phases come again
    piece = vocode(voice, mel[..., begin - edge : end + edge], first=begin - edge)
    inside = piece[:, edge * AUDIO.hop : (edge + end - begin) * AUDIO.hop]
    assert (inside - whole[:, begin * AUDIO.hop : end * AUDIO.hop]).abs().max() < 1e-4
    near = vocode(voice, mel[..., begin - 1 : end + 1], first=begin - 1)[:, AUDIO.hop : -AUDIO.hop]
    assert (near - whole[:, begin * AUDIO.hop : end * AUDIO.hop]).abs().max() > 1e-3, "the margin is needed"


def test_nothing_clips_and_what_fits_stays() -> None:
    sound = noise(3, 20_000)
    sound[1, 9_000:9_010] = 1.8
    sound[2, :5] = -3.0
    out = limit_peaks(sound)
    assert torch.allclose(out[0], sound[0], atol=1e-6) and out.abs().max() <= PEAK + 1e-6
    assert torch.allclose(out[1, :8_400], sound[1, :8_400]) and torch.allclose(out[1, 9_600:], sound[1, 9_600:])
    gain = out[1] / sound[1]
    assert abs(gain[9_005] - 0.55) < 0.01 and gain.diff().abs().max() < 0.01, "smooth"
    assert torch.equal(limit_peaks(torch.zeros(1, 4)), torch.zeros(1, 4))


def test_rounds_make_the_mel() -> None:
    mel = log_mel(noise(2, 16 * AUDIO.hop)) + torch.randn(64, 1, generator=torch_rng("uneven bands"))
    base, bank = smooth_base(mel), filters(AUDIO, mel.device)[0]
    errors = [((bank @ consistent(base, mel, rounds)).log() - mel).abs().mean() for rounds in (0, 2, 4)]
    assert errors[2] < errors[1] < errors[0] * 0.6 and errors[2] < errors[0] / 2


def test_losses_are_least_at_the_truth_and_have_slopes_everywhere() -> None:
    sound = torch.cat([noise(2, 8 * AUDIO.hop), torch.zeros(1, 8 * AUDIO.hop)])
    true, mel = magnitudes(sound), log_mel(sound)
    parts = magnitude_losses(true, true, mel)
    assert all(value < 2e-3 for value in parts.values())
    guess = (1.3 * true).requires_grad_()
    worse = sum(magnitude_losses(guess, true, mel).values())
    worse.backward()
    assert worse > 0.2 and guess.grad is not None and guess.grad.isfinite().all()


def test_frames_must_overlap_by_half() -> None:
    with pytest.raises(UserError, match="overlap by half"):
        recover_phase(torch.ones(1, 1_025, 4), AudioConfig(hop=512))
    with pytest.raises(UserError, match="kernel is 4"):
        MagnitudeConfig(kernel=4)
    with pytest.raises(UserError, match="64 mels, the log-mel has 80"):
        MagnitudeNet(audio=AudioConfig(mels=80))


def test_files_of_another_kind_are_refused(tmp_path: Path, net: MagnitudeNet) -> None:
    path = save_weights(tmp_path / "m.safetensors", net, {"model": "magnitude", "magnitude": TINY, "audio": AUDIO})
    mel = log_mel(noise(1, 4 * AUDIO.hop))
    assert (vocode(load_magnitude(path), mel) - vocode(net, mel)).abs().max() < 1e-2  # half precision
    with pytest.raises(UserError, match="highest frequency 7600, not 8000"):
        load_magnitude(path, audio=AudioConfig(f_max=7_600.0))
    with pytest.raises(UserError, match="has no magnitude"):
        load_magnitude(weights_file("mini", "mini-music", "clipsynth"))
    with pytest.raises(UserError, match="choose one of magnitude, hifigan, griffin-lim"):
        load_vocoder("vocos", path)


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    monkeypatch.setattr("clipsynth.engine.diffusion_task.Store", RandomStore)
    return tmp_path


def test_both_worlds_are_read_for_one_set_of_weights(noisy: Path) -> None:
    changes = {"steps": 3, "batch": 2}
    first, second = (make_trainer("magnitude", name, SMOKE, "cpu", changes) for name in ("mini-music", "mini-vggsound"))
    assert set(first.task.digests) == {"mini-music", "mini-vggsound"} and first.about == second.about
    assert owner_of("magnitude", "mini-music") is None and first.folder == second.folder
    own = make_trainer("magnitude", "music", PAPER, "cpu", changes)
    assert set(own.task.digests) == {"music"} and own.folder.parts[-2:] == ("music", "magnitude")
    path = clipsynth.engine.train.train("magnitude", "mini-vggsound", SMOKE, "cpu", changes=changes)
    assert path == weights_file("smoke", "mini-music", "magnitude") == weights_file("smoke", "anybody's", "magnitude")
    assert path.parent == noisy / "smoke/weights" and isinstance(load_magnitude(path), MagnitudeNet)


def test_a_resumed_training_is_the_same(noisy: Path) -> None:
    def states(*ends: int) -> list[torch.Tensor]:
        for end in ends:
            made = make_trainer("magnitude", "mini-music", SMOKE, "cpu", {"steps": 4, "batch": 2})
            load_state(made)
            run(made, end)
            save_state(made)
        return [p.clone() for p in made.published().parameters()]

    whole = states(4)
    for path in sorted((noisy / "smoke/runs/shared/magnitude").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert all(torch.equal(a, b) for a, b in zip(whole, states(2, 4), strict=True))


@pytest.mark.parametrize("vocoder", VOCODERS)
def test_every_vocoder_by_name(vocoder: str) -> None:
    made = Synthesizer("mini-music", device="cpu", vocoder=vocoder)
    mel = torch.zeros(1, 64, 8) - 0.5
    assert made.waveforms(mel).shape == (1, 8 * AUDIO.hop)
    other = Synthesizer("mini-music", profile=configure(MINI, {"vocoder": vocoder}), device="cpu")
    assert type(other.vocoder) is type(made.vocoder) and torch.equal(other.waveforms(mel), made.waveforms(mel))
    assert Bench(other.profile, "mini-music").inputs()["vocoder"] == vocoder


def test_unknown_vocoders_are_refused() -> None:
    with pytest.raises(UserError, match="no vocoder 'vocos'"):
        Synthesizer("mini-music", device="cpu", vocoder="vocos")
    with pytest.raises(UserError, match="vocoder: 'vocos' is not"):
        configure(MINI, {"vocoder": "vocos"})


def test_profiles_and_their_vocoders() -> None:
    assert [p.vocoder for p in (SMOKE, MINI, PAPER)] == ["magnitude", "magnitude", "hifigan"]


def test_a_folder_with_hifigan_still_loads(tmp_path: Path) -> None:
    folder = save_pretrained(tmp_path / "old", vocoder="hifigan")
    assert (folder / WEIGHTS["hifigan"]).exists() and not (folder / WEIGHTS["magnitude"]).exists()
    assert isinstance(from_pretrained(folder, device="cpu").vocoder, Generator)


def test_records_of_another_vocoder_are_other_records() -> None:
    plain, other = (Bench(configure(MINI, s), "mini-music") for s in ({}, {"vocoder": "hifigan"}))
    assert plain.inputs() != other.inputs() and plain.records.folder != other.records.folder
    assert "hifigan" not in plain.weights and "magnitude" in plain.weights
    assert np.array_equal(sorted(other.weights), ["audio-net", "hifigan", "mel-net", "miniclip"])


def test_hifigan_with_noise_trains_and_loads(noisy: Path) -> None:
    smoke = configure(SMOKE, {"hifigan.noise": True})
    changes = {"steps": 2, "batch": 1, "alone": 1}
    path = clipsynth.engine.train.train("hifigan", "mini-music", smoke, "cpu", changes=changes)
    voice, mel = load_vocoder("hifigan", path), log_mel(noise(1, 16 * AUDIO.hop))
    assert vocode(voice, mel).isfinite().all() and not torch.equal(vocode(voice, mel), vocode(voice, mel, first=5))
    with pytest.raises(UserError, match="knows no noise"):
        save_official(noisy, voice)
