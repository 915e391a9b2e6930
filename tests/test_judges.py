"""Judges by name: VGGish equals the public code, files are checked, what is missing is said in one line."""
import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BIN, ROOT, run

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.places import weights_file
from clipsynth.base.process import UserError
from clipsynth.results import judges
from clipsynth.results.judge_files import content_digest, fill, seeded_state
from clipsynth.results.judges import JUDGES, judges_table, load_judge
from clipsynth.results.public_judges import PACKAGES, PUBLIC
from clipsynth.results.vggish import Vggish, vggish_patches

YAMNET = os.environ.get("CLIPSYNTH_YAMNET")  # before the fixture of conftest takes it away
OTHERS = [name for name, info in JUDGES.items() if info.file]
PACKED = [name for name, info in JUDGES.items() if info.package]


def glide(samples: int = 32_000) -> np.ndarray:
    """The sound of the golden values: a gliding tone in noise at 16 kHz."""
    times = np.arange(samples) / 16_000
    noise = 0.05 * numpy_rng("vggish", "sound").standard_normal(samples)
    return (0.4 * np.sin(2 * np.pi * (300 + 200 * times) * times) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def drawn() -> Iterator[Path]:
    """A file of drawn weights in the form of the public checkpoint, which is larger than what one wants to keep."""
    with torch.device("meta"):
        net = Vggish()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vggish-10086976.pth")
        torch.save(seeded_state(net, "vggish"), path)
        yield path


@pytest.fixture
def accepted(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with its own digest in the place of the trained weights'."""
    for name in [name for name in OTHERS if name.startswith("vggish")]:
        file = JUDGES[name].file
        assert file
        mine = replace(JUDGES[name], file=replace(file, sha256=content_digest(drawn)))
        monkeypatch.setitem(JUDGES, name, mine)
    return drawn


# VGGish

def test_vggish_is_the_public_one(accepted: Path) -> None:
    """The golden values are torchvggish's (f3f9096, before its last ReLU) with the same weights: results/vggish."""
    judge = load_judge("vggish", accepted)
    found = judge.measure([glide(), glide()[:16_000]], 16_000)
    golden = [[2.12964, -0.04976, 2.6235, -1.93696, 0.2235], [2.26341, 0.82545, 2.35693, -2.16943, 1.24873]]
    assert np.abs(found.vectors[:2, :5] - golden).max() < 1e-4 and found.vectors.dtype == np.float64
    assert found.clip.tolist() == [0, 0, 1] and found.scores is None
    assert hashlib.sha256(accepted.read_bytes()).hexdigest()[:16] in judge.protocol
    with pytest.raises(UserError, match="vggish is no classifier"):
        judge.scores([glide()], 16_000)
    with pytest.raises(UserError, match=r"sound 1 has 0\.974 s, less than the window of 0\.975 s"):
        judge.embed([glide(), glide()[:15_590]], 16_000)


def test_protocols_of_vggish_differ(accepted: Path) -> None:
    """Google's program overlaps windows and brings sounds to one level; the ports do neither."""
    port, google = load_judge("vggish", accepted), load_judge("vggish-google", accepted.parent)
    assert port.protocol != google.protocol
    assert [len(judge.embed([glide()], 16_000)) for judge in (port, google)] == [2, 3]
    loud, soft = glide(), glide() / 4
    assert np.abs(google.embed([loud], 16_000) - google.embed([soft], 16_000)).max() < 1e-3
    assert np.abs(port.embed([loud], 16_000) - port.embed([soft], 16_000)).max() > 0.1


def test_the_port_has_the_same_network(drawn: Path) -> None:
    """Equal weights in `torch_vggish_yamnet` give the same numbers, of the same patches."""
    port = pytest.importorskip("torch_vggish_yamnet.vggish", reason="needs torch-vggish-yamnet")
    state = torch.load(drawn, weights_only=True)
    patches = vggish_patches(torch.from_numpy(glide()).unfold(0, 15_600, 15_360))
    theirs, ours = fill(port.get_vggish(pretrained=False), state, drawn), fill(Vggish(), state, drawn)
    assert torch.allclose(ours(patches).relu(), theirs(patches), atol=1e-5)


# What is missing

@pytest.mark.parametrize("name", OTHERS)
def test_missing_weights_are_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says which file, how large, from where, and the place to put it; nothing is downloaded unasked."""
    monkeypatch.setattr(judges, "need_packages", lambda *_: None)
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloads"))
    monkeypatch.setenv("CLIPSYNTH_JUDGES", str(tmp_path))
    file = JUDGES[name].file
    assert file
    with pytest.raises(UserError) as told:
        load_judge(name)
    said = str(told.value)
    assert "\n" not in said and all(word in said for word in (file.name, " MB)", file.home, str(tmp_path / file.name)))
    assert not list(tmp_path.iterdir())
    (tmp_path / file.name).write_bytes(b"another")
    if file.sha256:
        with pytest.raises(UserError, match=f"is another file than {re.escape(file.name)}") as told:
            load_judge(name)
        assert "\n" not in str(told.value)


def test_weights_of_another_digest_are_refused(drawn: Path) -> None:
    """They have the right name and fit the network, but are not the trained ones."""
    with pytest.raises(UserError, match=r"is another file than vggish-10086976\.pth: .* not with 10086976") as told:
        load_judge("vggish", drawn)
    assert "\n" not in str(told.value)


def test_another_networks_weights_are_refused(accepted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = JUDGES["panns"].file
    assert file
    mine = replace(JUDGES["panns"], file=replace(file, sha256=""))
    monkeypatch.setitem(JUDGES, "panns", mine)
    with pytest.raises(UserError, match="has no weights under `model`") as told:
        load_judge("panns", accepted)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", PACKED)
def test_a_missing_package_is_one_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    info = JUDGES[name]
    monkeypatch.setitem(sys.modules, info.package, None)
    with pytest.raises(UserError) as told:
        load_judge(name)
    assert str(told.value) == f'{name} needs {info.package}: pip install "clipsynth[{info.extra}]"'
    assert judges_table().loc[name, "lacking"] == f"package {info.package}"


def test_nothing_is_imported_or_fetched_before_it_is_asked_for() -> None:
    packages = sorted({info.package for info in JUDGES.values() if info.package})
    code = ("import socket, sys\nsocket.socket.connect = None\nfrom clipsynth.results.judges import judges_table\n"
            f"judges_table()\nprint([name for name in {packages} if name in sys.modules])")
    assert run(BIN / "python", "-c", code, PYTHONPATH=ROOT).stdout.strip() == "[]"


# What is measured

def test_careless_sounds() -> None:
    """One line with the number of the sound; 16-bit samples, tensors and generators are as good as arrays."""
    judge = load_judge("audio-net", dataset="mini-music")
    sound = glide(65_536)
    for wrong, said in ((np.stack([sound, sound]), "average the channels"), (sound[:0], "leave out what is empty"),
                        (np.where(sound > 0.3, np.nan, sound), "not finite"), (sound * 40, "full scale is 1"),
                        (sound[:60_000], "less than the window")):
        with pytest.raises(UserError, match=f"audio-net: sound 1.*{said}") as told:
            judge.embed([sound, wrong], 16_000)
        assert "\n" not in str(told.value)
    with pytest.raises(UserError, match="no sounds to measure"):
        judge.embed([], 16_000)
    whole = np.round(sound * 32_767).astype(np.int16)
    found = judge.embed((one for one in (sound, torch.from_numpy(sound), whole)), 16_000)
    assert np.abs(found - found[0]).max() < 0.05 * np.abs(found).max() and (found[0] == found[1]).all()
    assert judge.embed([sound], 8_000).shape == (1, 64)  # twice as long; what is above 4 kHz is empty


def test_own_judges_belong_to_a_world() -> None:
    """The digest in the protocol is that of the weights, so numbers of two worlds cannot be mixed up."""
    one, other = (load_judge("mel-net", dataset=name) for name in ("mini-music", "mini-vggsound"))
    assert one.protocol != other.protocol and len(one.classes) < len(other.classes)
    assert content_digest(weights_file("mini", "mini-music", "mel-net"))[:16] in one.protocol
    shares = one.scores([glide(131_072)], 16_000)
    assert shares.shape == (1, len(one.classes)) and abs(shares.sum() - 1) < 1e-6


def test_table_lists_all_judges() -> None:
    table = judges_table()
    assert list(table.index) == list(JUDGES) and set(PUBLIC) == set(PACKAGES) < set(JUDGES)
    assert (table.loc[["audio-net", "mel-net"], "lacking"] == "").all()


# Packages

def empty_network(name: str) -> torch.nn.Module:
    """The network that a package makes, with weights of its own."""
    if name == "passt":
        from hear21passt.base import get_model_passt

        return get_model_passt(arch="passt_s_swa_p16_128_ap476", pretrained=False)
    if name == "clap":
        from transformers import ClapAudioConfig, ClapAudioModelWithProjection

        return ClapAudioModelWithProjection(ClapAudioConfig())
    if name == "inception":
        from torch_fidelity import feature_extractor_inceptionv3 as module

        class Unfilled(module.FeatureExtractorInceptionV3):
            def load_state_dict(self, *_: object, **__: object) -> None:
                pass

        nothing = tempfile.TemporaryFile()
        torch.save({}, nothing)
        nothing.seek(0)
        return Unfilled("fid", ["2048"], feature_extractor_weights_path=nothing)
    from torch_vggish_yamnet import vggish, yamnet

    return vggish.get_vggish(pretrained=False) if name == "vggish-torch" else yamnet.yamnet(pretrained=False)


@pytest.mark.parametrize("name", PACKAGES)
def test_public_judges_run(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward on drawn weights: widths, rates; a batch gives what single sounds give, and nothing is printed."""
    pytest.importorskip(PACKAGES[name], reason=f"needs {PACKAGES[name]} of the extra judges")
    info = JUDGES[name]
    assert info.file
    monkeypatch.setitem(JUDGES, name, replace(info, file=replace(info.file, sha256="")))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, info.file.name)
        torch.save(seeded_state(empty_network(name), name), path)
        capsys.readouterr()
        judge = load_judge(name, folder)
        assert content_digest(path)[:16] in judge.protocol and (judge.rate, judge.width) == (info.rate, info.width)
        sounds = [glide(65_536), glide(70_000)[::-1].copy()]
        found = judge.measure(sounds, 16_000)
        assert capsys.readouterr() == ("", "")
        alone = judge.embed(sounds[1:], 16_000)
        assert np.abs(found.vectors[found.clip == 1] - alone).max() < 1e-4 * np.abs(alone).max()
        assert np.ptp(found.vectors, axis=0).max() > 1e-3 * np.abs(found.vectors).max(), "it hears a difference"
        assert found.vectors.shape[1] == info.width and set(found.clip) == {0, 1}
        assert (found.scores is None) == (info.classes == 0)
        if found.scores is not None:
            assert found.scores.shape == (2, info.classes) and 0 <= found.scores.min() <= found.scores.max() <= 1
        torch.save({"other": torch.zeros(3)}, path)
        with pytest.raises(UserError, match="holds another network's weights") as told:
            load_judge(name, path)
        assert "\n" not in str(told.value)


@pytest.mark.skipif(not YAMNET, reason="set CLIPSYNTH_YAMNET to yamnet.tflite")
def test_yamnet_hears_a_tone() -> None:
    pytest.importorskip("ai_edge_litert", reason="needs ai-edge-litert of the extra outside")
    judge = load_judge("yamnet", YAMNET)
    times = np.arange(32_000) / 16_000
    found = judge.measure([0.5 * np.sin(2 * np.pi * 1_000 * times), np.zeros(9_000)], 16_000)
    assert "weights=469be6a3421cbc52" in judge.protocol and found.vectors.shape == (2, 1_024)
    assert found.scores is not None
    words = [judge.classes[place] for place in found.scores.argmax(1)]
    assert words[0] in ("Sine wave", "Beep, bleep", "Dial tone", "Tuning fork") and words[1] == "Silence"
