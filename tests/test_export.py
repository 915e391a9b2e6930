"""Exports agree with their networks at sizes that were not traced, say what they are, and never leave half a file."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from clipsynth.base.config import AudioConfig, UNetConfig, VocoderConfig, from_json
from clipsynth.base.hashing import torch_rng
from clipsynth.base.process import UserError
from clipsynth.model import export
from clipsynth.model.audio import AUDIO
from clipsynth.model.unet import UNet
from clipsynth.model.vocoder import Generator, fold

SMALL = VocoderConfig(channels=16, resblock="2", resblock_kernels=(3,), resblock_dilations=((1, 2),))


def small_unet(conditioning: str) -> UNet:
    """A U-Net of five blocks in which no weight is zero; model/export exports one of all kinds of layers."""
    torch.manual_seed(0)
    config = UNetConfig(channels=8, multipliers=(1,), blocks=1, attention=(), heads=2, patch=8, condition=6,
                        conditioning=conditioning)
    net = UNet(config).eval()
    for parameter in net.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1, generator=torch_rng("awake"))
    return net


def as_tensors(path: Path, run):
    """An exported file as a function of tensors."""
    if path.suffix == ".pt":
        return torch.jit.load(str(path))
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    return lambda *given: torch.from_numpy(run(*(tensor.numpy() for tensor in given)))


@pytest.mark.filterwarnings("ignore")
def test_vocoder_in_every_format(tmp_path: Path) -> None:
    torch.manual_seed(0)
    generator = Generator(SMALL)
    mel = torch.randn(3, 64, 9, generator=torch_rng("mel")) - 4
    before, state = generator(mel), {name: value.clone() for name, value in generator.state_dict().items()}
    paths = [export.export_torchscript(generator, tmp_path / "v.pt"),
             export.export_program(generator, tmp_path / "v.pt2"),
             export.export_onnx(generator, tmp_path / "deeper/v.onnx")]
    sound = export.onnx_vocoder(paths[2])
    for path in paths:
        run = as_tensors(path, sound)
        for batch, frames in ((1, 1), (3, 9), (4, 40)):
            given = 2 * torch.randn(batch, 64, frames, generator=torch_rng("given", batch)) - 4
            with torch.no_grad():
                assert (run(given) - generator(given)).abs().max() < 1e-4, (path.name, batch, frames)
    assert torch.equal(generator(mel), before), "the original stays as it was"
    assert all(torch.equal(value, state[name]) for name, value in generator.state_dict().items())
    again = export.folded_copy(fold(generator))
    assert (again(mel) - before).abs().max() < 1e-5, "a folded one is copied as well"
    assert sound(mel.numpy()[None, None]).shape == (1, 1, 3, 9 * 1024)
    with pytest.raises(UserError, match=r"shape \(80, 9\), expected \(..., 64, frames\)"):
        sound(np.zeros((80, 9)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("conditioning", ["concat", "none"])
def test_unet(conditioning: str, tmp_path: Path) -> None:
    net = small_unet(conditioning)
    paths = [export.export_program(net, tmp_path / "u.pt2")]
    if conditioning == "concat":  # the paper's; ONNX takes its time
        paths.append(export.export_onnx(net, tmp_path / "u.onnx", note="a fact"))
        assert export.OnnxModel(paths[-1]).about["note"] == "a fact"
    for path in paths:
        run = as_tensors(path, None if path.suffix == ".pt2" else export.OnnxModel(path))
        for batch in (1, 5):
            rng = torch_rng("unet", batch)
            given = (torch.randn(batch, 1, 64, 64, generator=rng), 1000 * torch.rand(batch, generator=rng),
                     torch.randn(batch, 6, generator=rng))[: 2 if conditioning == "none" else 3]
            with torch.no_grad():
                answer = net(*given)
                assert answer.abs().max() > 0.1 and (run(*given) - answer).abs().max() < 1e-4, (path.name, batch)


def test_metadata_tell_the_front_end_that_was_trained_on() -> None:
    front = AudioConfig(sample_rate=22_050, n_fft=1_024, window=1_024, hop=256, mels=80, frames=32)
    generator = Generator(VocoderConfig(mels=80, hop=256, upsample_rates=(8, 8, 4), upsample_kernels=(16, 16, 8),
                                        channels=16, segment=8_192))
    generator.audio = front
    about = export.metadata(generator)
    assert (about["sample_rate"], about["hop"]) == ("22050", "256")
    assert from_json(AudioConfig, json.loads(about["audio"])) == front
    with pytest.raises(UserError, match="hop 1024, not 256"):
        export.metadata(generator, AUDIO)
    generator.audio = None
    with pytest.raises(UserError, match="mels 80 where the log-mel has 64"):  # unknown, and not the project's
        export.metadata(generator)


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_extra_is_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf'ONNX needs {package}: pip install "clipsynth\[export\]"'):
        export.export_onnx(Generator(SMALL), tmp_path / "v.onnx")
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_of_an_export_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(UserError, match="was not kept"):
        patch.setattr(export, "largest_difference", lambda *_: float("nan"))
        export.export_torchscript(Generator(SMALL), tmp_path / "v.pt")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.jit, "save", stop)
        export.export_torchscript(Generator(SMALL), tmp_path / "v.pt")
    (tmp_path / "v.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match="no ONNX file that can be run"):
        export.onnx_vocoder(tmp_path / "v.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["v.onnx"]
