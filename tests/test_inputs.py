"""Careless and unlucky inputs to queries, pictures and sounds: handled, or one clear line; never silence."""
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.places import weights_file
from clipsynth.base.process import UserError
from clipsynth.engine import hub
from clipsynth.engine.queries import load_picture
from clipsynth.engine.synth import Synthesizer
from clipsynth.model import audio
from clipsynth.model.query import QueryEncoder
from clipsynth.model.vocoder import vocode
from clipsynth.results.metric_nets import AudioNet, MelNet, embed_all
from clipsynth.worlds.drawings import draw
from clipsynth.worlds.instruments import INSTRUMENTS
from clipsynth.worlds.world import Traits

UNDO = {  # EXIF's number for how a camera was held: what brings an upright picture into the file's order
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270}
SOUND = (0.5 * np.sin(np.arange(9_000) / 9)).astype(np.float32)


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return Synthesizer("mini-music", device="cpu")


def line(attempt: Callable[[], Any], *words: str) -> str:
    """The one line of a refusal; it holds some words."""
    with pytest.raises(UserError) as refusal:
        attempt()
    said = str(refusal.value)
    assert "\n" not in said and len(said) < 500 and all(word in said for word in words), said
    return said


# ---- queries


@pytest.mark.parametrize("query", [
    "", "   ", "___", "?!…", "-", "vio\0lin", "\x1b[31mviolin", "caf\udce9", "\u202e\u200b",
    None, 7, ["violin"], b"violin"])
def test_what_is_no_query(synthesizer: Synthesizer, query: Any) -> None:
    line(lambda: synthesizer.embed_text([query]))


@pytest.mark.parametrize("query", [
    "violin\ntuba", "{query}", "%s \\ 'x'", "<b>violin</b>", "808", "Ｖiolin", "\u5f26", "é" * 30])
def test_odd_text_is_a_query(synthesizer: Synthesizer, query: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert synthesizer.embed_text([query]).isfinite().all()
    assert capsys.readouterr().err.count("\n") <= 2


def test_dropped_words_are_told(synthesizer: Synthesizer, capsys: pytest.CaptureFixture[str]) -> None:
    fits = " ".join(["violin"] * 12)
    first, second = (f"{fits} {fits} violin {last}" for last in ("tuba", "violin"))
    same = synthesizer.embed_text([first, second])
    assert torch.equal(same[0], same[1])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and said[0].endswith("tuba'") and "dropped" in said[0], said
    synthesizer.embed_text([fits, *INSTRUMENTS])
    assert not capsys.readouterr().err
    synthesizer.embed_text(["z" * 10_000])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "zzz" in said[1] and max(map(len, said)) < 200, said


def test_words_dropped_by_another_tokenizer() -> None:
    import open_clip

    from clipsynth.model.tokens import dropped_words

    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    for room in range(70, 80):  # 75 tokens and two marks; every word is one
        assert dropped_words(tokenizer, " ".join(["dog"] * room)) == ["dog"] * max(0, room - 75)


def test_unknown_words_are_told(synthesizer: Synthesizer, capsys: pytest.CaptureFixture[str]) -> None:
    synthesizer.embed_text(["qwxz"])
    assert "has not learned qwxz" in capsys.readouterr().err
    synthesizer.embed_text(["🎻", "a loud violin"])
    assert "🎻, loud" in capsys.readouterr().err
    other = Synthesizer("mini-vggsound", device="cpu")
    other.embed_text([name for name in other.encoder.labels or ["?"]])
    assert not capsys.readouterr().err


def test_invisible_characters_change_nothing(synthesizer: Synthesizer) -> None:
    plain, *copied = synthesizer.embed_text(["violin", "vio\u00adlin", "\ufeffviolin\u200b", " violin\t"])
    assert all(torch.equal(plain, one) for one in copied)


def test_one_text_is_no_list(synthesizer: Synthesizer) -> None:
    from clipsynth.model.tokens import learn_merges

    line(lambda: synthesizer.embed_text("violin"), "['violin']")
    line(lambda: synthesizer.encoder.text("violin"), "['violin']")
    line(lambda: learn_merges("violin"), "['violin']")
    line(lambda: synthesizer.encoder.text(["violin", None]), "NoneType")  # type: ignore[list-item]
    assert synthesizer.embed_text(one for one in ("violin", "tuba")).shape[0] == 2  # type: ignore[arg-type]


def test_two_queries_at_once(synthesizer: Synthesizer, tmp_path: Path) -> None:
    from clipsynth.engine.queries import one_query

    Image.new("RGB", (9, 9)).save(tmp_path / "p.png")
    line(lambda: synthesizer("violin", np.zeros((9, 9, 3), np.uint8)), "one of the two")
    line(lambda: one_query("violin", tmp_path / "p.png"), "violin", "p.png", "one of the two")
    line(lambda: one_query(None, None), "holds no word")
    words, picture = one_query(" tuba ", None), one_query(None, tmp_path / "p.png")
    assert words == ("tuba", None) and picture[0] is None and picture[1].shape == (9, 9, 3)  # type: ignore[union-attr]


# ---- pictures


@pytest.mark.parametrize("turn", UNDO)
def test_a_turned_picture_is_seen_upright(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    for name in list(INSTRUMENTS)[::4]:
        upright = draw(name, Traits(0.5, 0.5, 0.5), numpy_rng("turned", name), 64)[:, :48]
        Image.fromarray(upright).transpose(UNDO[turn]).save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(load_picture(tmp_path / "turned.png"), upright)


def picture_of(mode: str) -> tuple[Image.Image, np.ndarray]:
    """A picture of some kind, and what a screen shows of it."""
    ramp = np.arange(40 * 30, dtype=np.uint16).reshape(30, 40)
    colours = np.stack([ramp % 251, ramp % 241, ramp % 239], -1).astype(np.uint8)
    grey = np.repeat(colours[..., :1], 3, -1)
    seen = np.where((np.arange(40) < 20)[:, None], colours, 255).astype(np.uint8)
    cover = np.broadcast_to(np.where(np.arange(40) < 20, 255, 0), (30, 40)).astype(np.uint8)
    if mode == "RGBA":
        return Image.fromarray(np.dstack([colours, cover])), seen
    if mode == "LA":
        layers = [Image.fromarray(layer) for layer in (grey[..., 0], cover)]
        return Image.merge("LA", layers), np.where(seen == colours, grey, 255)
    if mode == "P":
        image = Image.fromarray(cover // 255).convert("P")
        image.putpalette([0, 0, 0, 9, 99, 199])
        image.info["transparency"] = 0
        return image, np.where(cover[..., None] > 0, np.uint8([9, 99, 199]), np.uint8(255))
    if mode == "I;16":
        return Image.fromarray(ramp * 50), np.repeat((ramp * 50 >> 8).astype(np.uint8)[..., None], 3, -1)
    if mode == "L":
        return Image.fromarray(grey[..., 0]), grey
    return Image.fromarray(colours).convert(mode), colours


@pytest.mark.parametrize("mode, suffix", [
    ("RGB", "png"), ("RGB", "tiff"), ("RGB", "bmp"), ("RGBA", "png"), ("RGBA", "tiff"), ("LA", "png"),
    ("P", "png"), ("P", "gif"), ("I;16", "png"), ("I;16", "tiff"), ("L", "png"), ("CMYK", "tiff")])
def test_a_picture_is_what_a_screen_shows(mode: str, suffix: str, tmp_path: Path) -> None:
    image, seen = picture_of(mode)
    extra = {"transparency": 0} if mode == "P" else {}
    image.save(tmp_path / f"p.{suffix}", **extra)
    shown = load_picture(tmp_path / f"p.{suffix}")
    assert shown.dtype == np.uint8 and np.array_equal(shown, seen)


def test_pictures_of_odd_sizes(
        synthesizer: Synthesizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        recwarn: pytest.WarningsRecorder) -> None:
    frames = [Image.new("RGB", (20, 20), shade) for shade in ("black", "white")]
    for suffix in ("gif", "webp", "tiff"):
        frames[0].save(tmp_path / f"moving.{suffix}", save_all=True, append_images=frames[1:])
        assert load_picture(tmp_path / f"moving.{suffix}").max() < 9, "the first frame"
    Image.new("RGB", (1, 1), "red").save(tmp_path / "dot.png")
    assert synthesizer.embed_image(load_picture(tmp_path / "dot.png")[None]).isfinite().all()
    Image.new("RGB", (5, 900)).save(tmp_path / "slim.png")
    line(lambda: load_picture(tmp_path / "slim.png"), "5 by 900", "crop")
    Image.new("RGB", (50, 50)).save(tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000)
    assert load_picture(tmp_path / "large.png").shape == (50, 50, 3) and not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    line(lambda: load_picture(tmp_path / "large.png"), "too many pixels")


def test_damaged_pictures(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    rng, exif = np.random.default_rng(0), Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "x" * 30
    picture = Image.fromarray(np.kron(rng.integers(0, 256, (6, 8, 3), np.uint8), np.ones((8, 8, 1), np.uint8)))
    for suffix in ("png", "jpg", "gif", "webp", "bmp"):
        picture.save(tmp_path / f"good.{suffix}", **({} if suffix in ("gif", "bmp") else {"exif": exif}))
        whole = (tmp_path / f"good.{suffix}").read_bytes()
        for trial in range(40):
            content = bytearray(whole[:rng.integers(1, len(whole))] if trial % 4 == 0 else whole)
            content[rng.integers(len(content))] ^= 1 << rng.integers(8)
            (tmp_path / f"bad.{suffix}").write_bytes(content)
            try:
                assert load_picture(tmp_path / f"bad.{suffix}").dtype == np.uint8
            except UserError as error:
                assert "\n" not in str(error)
    assert not [str(warning.message) for warning in recwarn.list]


def test_what_is_no_picture(synthesizer: Synthesizer, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((9, 9), np.float32)).save(tmp_path / "floats.tiff")
    Image.fromarray(np.full((9, 9), 1 << 20, np.int32)).save(tmp_path / "deep.tiff")
    line(lambda: load_picture(tmp_path / "floats.tiff"), "floating-point")
    line(lambda: load_picture(tmp_path / "deep.tiff"), "32 bits")
    line(lambda: load_picture(tmp_path), "no such file")
    line(lambda: load_picture(tmp_path / "none.png"), "no such file")
    shapes = ((9, 9, 4), (9, 9), (3, 9, 9), (0, 9, 3))
    for wrong in (np.zeros((9, 9, 3)), *(np.zeros(shape, np.uint8) for shape in shapes), [[1, 2]], "p.png"):
        line(lambda wrong=wrong: synthesizer(picture=wrong, steps=1), "load_picture")
    line(lambda: synthesizer.embed_image([np.zeros((9, 9, 3), np.uint8)]), "array")  # type: ignore[arg-type]


# ---- sounds

WRONG = {
    "int16": (SOUND * 32_767).astype(np.int16), "16-bit floats": SOUND * 32_767, "24-bit floats": SOUND * 8_388_607,
    "whole numbers": np.zeros(9_000, int), "NaN": np.where(SOUND > 0.4, np.nan, SOUND),
    "infinity": SOUND + np.float32(np.inf), "complex": SOUND + 0j, "nothing": SOUND[:0],
    "stereo": np.stack([SOUND, SOUND], 1), "a batch": SOUND[None], "a number": 0.5}


@pytest.mark.parametrize("kind", WRONG)
def test_sound_of_the_wrong_kind(kind: str, tmp_path: Path) -> None:
    wrong: Any = WRONG[kind]
    line(lambda: audio.save_audio(tmp_path / "x.wav", wrong))
    assert not (tmp_path / "x.wav").exists()
    if kind not in ("nothing", "stereo", "a batch", "a number"):  # any shape has samples
        line(lambda: audio.to_int16(wrong), "to_int16")
    if kind != "a batch":
        line(lambda: audio.log_mel(torch.as_tensor(wrong)), "log_mel")
    net = AudioNet(["a", "b"])
    if kind not in ("int16", "a batch"):
        line(lambda: embed_all(net, [wrong, wrong] if kind != "a number" else wrong))
    assert embed_all(net, np.stack([WRONG["int16"]] * 2)).shape == (2, 64)


def test_mels_of_the_wrong_kind(synthesizer: Synthesizer) -> None:
    mel, net = audio.log_mel(torch.from_numpy(SOUND)), MelNet(["a", "b"])
    for wrong, word in ((audio.normalize(mel), "denormalize"), (mel * 8.7, "decibels"),
                        (mel.exp() * 1e3, "no logarithm"),
                        (mel / 0, "not finite"), (mel[:, :0], "(64, 0)"), (mel.int(), "int32"), (mel[0], "expected")):
        line(lambda wrong=wrong: vocode(synthesizer.vocoder, wrong), "vocode", word)
    line(lambda: synthesizer.waveforms(mel[None]), "[-1, 1]")
    line(lambda: embed_all(net, torch.zeros(2, 1, 64, 64) - 11))
    line(lambda: embed_all(net, torch.zeros(2, 9_000)), "(n, 1, mels, frames)")


@pytest.mark.parametrize("level", [0.2, 0.3, 0.4, 0.6])
def test_loud_noise_has_a_mel_like_another_scale(synthesizer: Synthesizer, level: float) -> None:
    noise = level * torch.randn(4, 65_536, generator=torch.Generator().manual_seed(0))
    audio.check_log_mel(audio.log_mel(noise), "here")


def test_the_shortest_sound() -> None:
    from clipsynth.results.metric_nets import FINE

    for config, least in ((audio.AUDIO, 1_024), (FINE, 385)):
        assert audio.log_mel(torch.zeros(least), config).shape == (64, least // config.hop)
        for samples in (0, 1, least // 2 + 1, least - 1):
            short = torch.zeros(samples)
            line(lambda short=short, config=config: audio.log_mel(short, config), f"at least {least:,}")


def test_files_that_hold_no_sound(tmp_path: Path) -> None:
    import soundfile

    for name, wrong in (("scaled", SOUND * 32_767), ("nan", SOUND * np.float32(np.nan)), ("empty", SOUND[:0])):
        soundfile.write(tmp_path / f"{name}.wav", wrong, 16_000, subtype="FLOAT")
        line(lambda name=name: audio.load_audio(tmp_path / f"{name}.wav"), f"{name}.wav")


def test_where_a_sound_cannot_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipsynth.model.audio import check_output

    monkeypatch.chdir(tmp_path)
    check_output("sub/below/x.wav")
    assert audio.save_audio("sub/below/x.wav", SOUND).is_file()
    (tmp_path / "words").write_text("")
    for wrong, words in (("words/x.wav", str(tmp_path)), ("sub", "ends in"), ("n" * 252 + ".wav", "too long")):
        line(lambda wrong=wrong: check_output(wrong), f"cannot write {wrong}", words)
    check_output("n" * 240 + ".wav")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sub", "words"]
    line(lambda: audio.save_audio("x.wav", SOUND, 0), "sample rate of 0")


# ---- the synthesizer, and what messages advise


def test_numbers_that_make_no_sense(synthesizer: Synthesizer) -> None:
    tuba = synthesizer.embed_text(["tuba"])
    for steps in (0, -1, 2.5, "3", 10**6):
        line(lambda steps=steps: synthesizer.mels(tuba, [0], steps=steps), "steps")
    line(lambda: synthesizer.mels(tuba, [0, 1], steps=1), "2 seeds for 1")
    line(lambda: synthesizer.mels(tuba, [0.5], steps=1), "whole numbers")  # type: ignore[list-item]
    for seconds in (0, -1.0, 1e-9, float("nan"), float("inf")):
        line(lambda seconds=seconds: synthesizer("tuba", seconds=seconds), "seconds")
    line(lambda: synthesizer("tuba", guidance=float("nan")), "guidance nan")
    assert synthesizer.mels(tuba[:0], [], steps=1).shape == (0, 64, 64)


def test_the_dataset_has_a_name_and_a_former_one() -> None:
    assert {Synthesizer(weights="mini-vggsound", device="cpu").dataset,
            Synthesizer(dataset="mini-vggsound", device="cpu").dataset} == {"mini-vggsound"}
    line(lambda: Synthesizer("mini-music", weights="mini-vggsound"), "name one")
    line(lambda: Synthesizer(""), "no weights ''")


def test_advice_names_dataset_and_profile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    said = line(lambda: Synthesizer("music", "clipsynth-text-seed2", profile="paper"))
    assert "`clipsynth train clipsynth-text music seed=2 --profile paper`" in said
    line(lambda: QueryEncoder("mini", profile="smoke"), "`clipsynth train miniclip --profile smoke`")
    for part in ("clipsynth", "magnitude"):
        path = weights_file("smoke", "mini-vggsound", part, new=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    advice = "`clipsynth train miniclip --profile smoke`"
    line(lambda: hub.parts_of("mini-vggsound", profile="smoke"), advice)


def test_a_checkpoint_of_another_size_is_counted_right() -> None:
    from clipsynth.base.profiles import MINI, SMOKE
    from clipsynth.model.converters import load_official_state, official_state
    from clipsynth.model.vocoder import Generator

    small, large = Generator(SMOKE.hifigan), Generator(MINI.hifigan)
    said = line(lambda: load_official_state(small, official_state(large)), "do not fit the configuration")
    wrong, wanted = (int(word) for word in re.findall(r"(\d+) of (\d+) weights", said)[0])
    assert wrong <= wanted == len(small.state_dict())


def test_files_of_another_model(tmp_path: Path) -> None:
    from clipsynth.base.weights import load_weights, save_weights
    from clipsynth.engine.sampling import load_denoiser
    from clipsynth.model.vocoder import load_generator

    good = {name: weights_file("mini", "mini-music", name) for name in ("clipsynth", "hifigan")}
    line(lambda: load_denoiser(good["hifigan"]), "'hifigan', which has no unet")
    line(lambda: load_generator(good["clipsynth"]), "has no vocoder")
    line(lambda: QueryEncoder(f"mini:{good['clipsynth']}"), "'clipsynth', which has no merges")
    for name, load in (("clipsynth", load_denoiser), ("hifigan", load_generator)):
        state, config = load_weights(good[name])
        state.popitem()
        broken = save_weights(tmp_path / f"{name}.safetensors", state, config)
        line(lambda load=load, broken=broken: load(broken), name, "fetch or train it again")


def test_channels_that_cancel_are_heard(tmp_path: Path) -> None:
    import soundfile

    for gains in ((1, -1), (1, -0.9), (0, 0, 1, 0, 0, 0), (1, 1)):
        soundfile.write(tmp_path / "many.wav", np.outer(SOUND, gains).astype(np.float32), 16_000, subtype="FLOAT")
        heard = audio.load_audio(tmp_path / "many.wav").numpy()
        expected = SOUND if abs(np.mean(gains)) < 0.1 else SOUND * np.float32(np.mean(gains))
        assert np.allclose(heard, expected, atol=1e-6), gains


def test_the_bench_counts_weights_not_biases() -> None:
    from clipsynth.base.config import VocoderConfig
    from clipsynth.base.profiles import MINI
    from clipsynth.model.vocoder import Generator, fold

    results = json.loads((ROOT / "bench/results/model.json").read_text())["vocoder"]
    for name, config in (("V1", VocoderConfig()), ("small", replace(MINI.hifigan, noise=False))):
        with torch.device("meta"):
            net = fold(Generator(config))
        assert results[name]["parameters"] == sum(tensor.numel() for tensor in net.state_dict().values())
