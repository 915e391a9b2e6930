"""The page without Python in a browser, beside Python with the same rounded weights; and what a user may do to it."""
import base64
import io
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import browser_with, check_screen, need_browser, opened_page, static_host
from conftest import BIN
from PIL import Image

from clipsynth.base.hashing import torch_rng
from clipsynth.base.process import UserError
from clipsynth.engine.browser_networks import page_synthesizer
from clipsynth.engine.browser_page import RUNTIME, runtime_archive, write_page
from clipsynth.engine.command import main
from clipsynth.engine.queries import load_picture
from clipsynth.engine.synth import Synthesizer
from clipsynth.model.audio import denormalize, log_mel
from clipsynth.model.inputs import crop_square

need_browser()
pytest.importorskip("onnxscript", reason="no exporter: pip install clipsynth[export]")
ASK = """(asked) => clipsynth.ask(asked).then((found) => Object.fromEntries(
    ["embedding", "mel", "sound"].map((name) => [name, [...found[name]]])))"""
SQUARE = """async (text) => {
    const { squareOf } = await import("./picture.js");
    return [...await squareOf(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], "a"), 64)];
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of both mini worlds."""
    try:
        runtime_archive()
    except UserError as error:
        if "could not fetch" not in str(error):
            raise
        pytest.skip(str(error))
    return write_page(tmp_path_factory.mktemp("playground") / "page").parent


@pytest.fixture(scope="module")
def host(folder: Path) -> Iterator[str]:
    """The page on a static web server."""
    with static_host(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browser_with("--autoplay-policy=no-user-gesture-required") as started:
        yield started


@pytest.fixture(scope="module")
def synthesizers() -> dict[str, Synthesizer]:
    """What the page has, in Python."""
    return {name: page_synthesizer(name) for name in ("mini-music", "mini-vggsound")}


def ready(browser: Any, address: str, *how: Any, **more: Any) -> tuple[Any, list[str]]:
    """The page once it can be asked."""
    page, faults = opened_page(browser, address, *how, **more)
    page.set_default_timeout(60_000)
    page.get_by_text("Ready").wait_for()
    return page, faults


@pytest.fixture(scope="module")
def shared(browser: Any, host: str) -> Iterator[Any]:
    """One page for what is asked by script, which leaves it as it was."""
    page, faults = ready(browser, host)
    yield page
    assert faults == []


def check_same(found: dict[str, list[float]], synthesizer: Synthesizer, embedding: torch.Tensor, seed: int,
               steps: int) -> None:
    """Embedding, mel and waveform are Python's, and the sound has the mel."""
    mel = synthesizer.mels(embedding, [seed], steps)
    sound = synthesizer.waveforms(mel)[0].numpy()
    theirs = {name: np.array(values, np.float32) for name, values in found.items()}
    assert np.abs(theirs["embedding"] - embedding[0].numpy()).max() < 1e-3
    assert np.abs(theirs["mel"] - mel.numpy().ravel()).max() < 1e-3
    assert theirs["sound"].shape == (65_536,) and 0.02 < np.abs(theirs["sound"]).max() <= 0.99
    assert np.abs(theirs["sound"] - sound).max() < 1e-2
    heard = log_mel(torch.from_numpy(theirs["sound"]))
    assert np.corrcoef(heard.numpy().ravel(), denormalize(mel[0]).numpy().ravel())[0, 1] > 0.95


def file_of(picture: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return file.getvalue()


def a_picture(height: int, width: int) -> np.ndarray:
    """Waves of colour and some noise, which every scaling changes."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / a + y / b) for a, b in ((9, 31), (17, 5), (3, 50))]
    noise = np.random.default_rng(0).normal(size=(height, width, 3))
    return (128 + 70 * np.stack(waves, -1) + 20 * noise).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("world", "words", "seed", "steps"), [
    ("mini-music", "violin", 3, 10), ("mini-music", "  Electric_Bass & Zymbel “solo” ", 12_345, 6),
    ("mini-vggsound", "dog barking", 0, 10)])
def test_words_sound_as_in_python(
        shared: Any, synthesizers: dict[str, Synthesizer], world: str, words: str, seed: int, steps: int) -> None:
    found = shared.evaluate(ASK, {"world": world, "words": words, "seed": seed, "steps": steps})
    check_same(found, synthesizers[world], synthesizers[world].embed_text([words]), seed, steps)


def test_the_noise_is_torchs(shared: Any) -> None:
    draw = """([name, seed, how]) => import("./noise.js").then(({ Generator }) => {
        const rng = new Generator(name, seed);
        return how === "normals" ? [...rng.normals(4096)] : Array.from({length: 4096}, () => rng.uniform());
    })"""
    for name, seed in (("diffusion.sample", 0), ("diffusion.sample", 999_999_999), ("griffin-lim", 7)):
        for how, theirs in (("normals", torch.randn), ("uniform", torch.rand)):
            wanted = theirs(4096, generator=torch_rng(name, seed=seed)).numpy()
            assert np.abs(np.array(shared.evaluate(draw, [name, seed, how])) - wanted).max() < 2e-5, (name, seed, how)


def test_tokens_are_pythons(shared: Any, synthesizers: dict[str, Synthesizer]) -> None:
    tokenizer = synthesizers["mini-music"].encoder.tokenizer
    texts = ["a photo of playing violin", "", "Don't &amp;&lt; stop!!  12 3.5", "二胡 (erhu) 🎻", "naïve Łódź “quoted”",
             "<end_of_text> marks", "x" * 300, "tuba " * 40]
    encode = """(texts) => Promise.all([import("./tokens.js"), fetch("about.json").then((answer) => answer.json())])
        .then(([{ Tokenizer }, about]) => texts.map((text) => [...new Tokenizer(about.text).tokens(text)]))"""
    assert shared.evaluate(encode, texts) == tokenizer(texts).tolist()


def square_in(page: Any, content: bytes) -> np.ndarray:
    """What the picture tower sees of a file."""
    return np.array(page.evaluate(SQUARE, base64.b64encode(content).decode())).reshape(64, 64, 3)


@pytest.mark.parametrize("shape", [(64, 64), (128, 96), (95, 131), (1201, 1501), (20, 33), (64, 201)])
def test_pictures_are_scaled_as_pillow_does(shared: Any, shape: tuple[int, int]) -> None:
    picture = a_picture(*shape)
    assert np.array_equal(square_in(shared, file_of(picture)), crop_square(picture, 64))


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP"])
def test_other_kinds_of_pictures(shared: Any, kind: str) -> None:
    content = file_of(a_picture(80, 100), kind)
    wanted = crop_square(np.array(Image.open(io.BytesIO(content)).convert("RGB")), 64)
    assert np.abs(square_in(shared, content) - wanted).max() <= 4, "decoders round differently"


def test_pictures_are_upright_and_on_white(shared: Any) -> None:
    """A camera's turn is followed, and nothing shines through but white, as `load_picture` has it."""
    turned, file = Image.fromarray(a_picture(90, 120)), io.BytesIO()
    about = Image.Exif()
    about[0x0112] = 6  # the camera was held upright
    turned.save(file, "PNG", exif=about)
    upright = np.rot90(np.array(turned), -1)
    assert np.array_equal(square_in(shared, file.getvalue()), crop_square(np.ascontiguousarray(upright), 64))
    clear, file = Image.new("RGBA", (80, 80), (255, 0, 0, 0)), io.BytesIO()
    clear.paste((0, 0, 255, 255), (0, 0, 40, 80))
    clear.save(file, "PNG")
    left, right = square_in(shared, file.getvalue())[:, [10, 50]].swapaxes(0, 1)
    assert (left == (0, 0, 255)).all() and (right == 255).all()


def test_a_picture_is_heard_and_can_be_saved(
        browser: Any, host: str, synthesizers: dict[str, Synthesizer], tmp_path: Path) -> None:
    page, faults = ready(browser, host)
    path = tmp_path / "waves.png"
    path.write_bytes(file_of(a_picture(190, 140)))
    page.get_by_label("Or a picture of it").set_input_files(path)
    assert page.get_by_label("What should sound?").is_disabled()
    page.get_by_label("Seed").fill("5")
    page.get_by_role("button", name="Make the sound").click()
    page.get_by_text("The picture, seed 5: made in").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save as WAV").click()
    assert saved.value.suggested_filename == "clipsynth-picture-5.wav"
    with wave.open(str(saved.value.path())) as file:
        assert file.getparams()[:4] == (1, 2, 16_000, 65_536)
        sound = np.frombuffer(file.readframes(65_536), np.int16) / 32_767
    synthesizer = synthesizers["mini-music"]
    embedding = synthesizer.embed_image(load_picture(path)[None])
    wanted = synthesizer.waveforms(synthesizer.mels(embedding, [5]))[0].numpy()
    assert np.abs(sound - wanted).max() < 1e-2
    assert page.locator("#player").evaluate("(player) => player.error === null && player.duration") == 4.096
    seen = page.locator("#seen").evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, 64, 64).data]")
    assert np.array_equal(np.array(seen).reshape(64, 64, 4)[..., :3], crop_square(load_picture(path), 64))
    page.get_by_role("button", name="Use words instead").click()
    assert page.get_by_label("What should sound?").is_enabled() and faults == []


def test_the_spectrogram_forms_step_by_step(browser: Any, host: str, synthesizers: dict[str, Synthesizer]) -> None:
    """A guess after each step, the last one the result; progress grows; remarks are told."""
    page, faults = ready(browser, host)
    heard = page.evaluate("""async () => {
        const [guesses, done, remarks] = [[], [], []];
        const tell = (kind, what) => {
            if (kind === "guess") guesses.push([...what.mel]);
            if (kind === "progress") done.push(what.done);
            if (kind === "remark") remarks.push(what.text);
        };
        const found = await clipsynth.ask({world: "mini-music", words: "qwxz violin", seed: 0, steps: 10}, tell);
        return {guesses, done, remarks, mel: [...found.mel]};
    }""")
    assert len(heard["guesses"]) == 10 and heard["guesses"][-1] == heard["mel"]
    moved = [np.abs(np.subtract(guess, heard["mel"])).mean() for guess in heard["guesses"]]
    assert moved[0] > 0.1 > moved[5] > moved[8] > 0
    assert heard["done"] == sorted(heard["done"]) and 0.8 < heard["done"][-1] < 1
    assert heard["remarks"] == ["MiniCLIP has not learned qwxz: the sound may be anything."]
    page.get_by_role("button", name="Make the sound").click()
    page.get_by_text("made in").wait_for()
    drawn = page.locator("#mel").evaluate("(c) => [...c.getContext('2d').getImageData(0, 0, 64, 64).data]")
    bright = np.array(drawn).reshape(64, 64, 4)[::-1, :, :3].sum(-1)
    mel = synthesizers["mini-music"].mels(synthesizers["mini-music"].embed_text(["violin"]), [0])[0].numpy()
    assert np.corrcoef(bright.ravel(), mel.ravel())[0, 1] > 0.95, "low bands are below"
    assert page.get_by_label("Spectrogram of the sound for “violin”, seed 0").is_visible() and faults == []


def test_cancel(browser: Any, host: str) -> None:
    """What was asked stops before its end, and the next question is answered."""
    page, faults = ready(browser, host)
    page.get_by_label("Steps").select_option("25")
    page.evaluate("""() => {
        window.told = [];
        const [said, cancel] = ["said", "cancel"].map((id) => document.getElementById(id));
        new MutationObserver(() => {
            window.told.push(said.textContent);
            if (said.textContent.startsWith("Step 3 of 25")) cancel.click();
        }).observe(said, {childList: true});
    }""")
    page.get_by_role("button", name="Make the sound").click()
    page.get_by_text("Cancelled.").wait_for()
    told = page.evaluate("window.told")
    assert told[-1] == "Cancelled." and not any(text.startswith("Step 6") for text in told)
    assert page.locator("#save").is_hidden() and page.get_by_role("progressbar").is_hidden()
    page.get_by_label("Steps").select_option("6")
    page.get_by_role("button", name="Another one").click()
    page.get_by_text("“violin”, seed 1: made in").wait_for()
    assert faults == []


BOMB = file_of(np.zeros((2, 2, 3), np.uint8))
BOMB = BOMB[:16] + (60_000).to_bytes(4, "big") * 2 + BOMB[24:]  # its head promises 3.6 billion pixels
BAD = {
    "words.png": (b"not a picture at all", "it is no picture that can be read; give a PNG"),
    "empty.png": (b"", "it is no picture that can be read"),
    "half.png": (file_of(a_picture(90, 90))[:2_000], "it is damaged, or of another kind"),
    "bomb.png": (BOMB, "it is 60000 by 60000 pixels: scale it down"),
    "heavy.jpg": (bytes(20_000_001), "it has more than 20 MB: save it smaller"),
    "slim.gif": (file_of(np.zeros((2, 300, 3), np.uint8), "GIF"), "it is 300 by 2 pixels: crop it"),
    "cut.jpg": (file_of(a_picture(90, 90), "JPEG")[:60], "it is no picture that can be read"),
}


def test_bad_uploads_and_queries_are_one_line(browser: Any, host: str, tmp_path: Path) -> None:
    page, faults = ready(browser, host)
    make, alert = page.get_by_role("button", name="Make the sound"), page.get_by_role("alert")
    for name, (content, told) in BAD.items():
        (tmp_path / name).write_bytes(content)
        page.get_by_label("Or a picture of it").set_input_files(tmp_path / name)
        make.click()
        alert.get_by_text(f"Cannot use {name}: {told}").wait_for()
        assert "\n" not in alert.inner_text() and make.is_enabled()
    page.get_by_role("button", name="Use words instead").click()
    for words, told in (("  ", "The query holds no word"), ("?!", "The query holds no word"),
                        ("a\u0007b", "The query holds U+0007, which is no character of a text")):
        page.get_by_label("What should sound?").fill(words)
        make.click()
        alert.get_by_text(told).wait_for()
    page.get_by_label("What should sound?").fill("cello")
    make.click()
    page.get_by_text("“cello”, seed 0: made in").wait_for()
    assert alert.is_hidden() and faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_and_can_be_used_by_all(browser: Any, host: str, width: int, scheme: str) -> None:
    page, faults = ready(browser, host, width, scheme, has_touch=width < 500)
    check_screen(page)
    page.get_by_label("What the model has learned").select_option("mini-vggsound")
    page.get_by_text("Words that it knows").click()
    page.get_by_role("button", name="owl hooting", exact=True).click()
    page.get_by_label("What should sound?").press("Enter")
    page.get_by_text("“owl hooting”, seed 0: made in").wait_for()
    check_screen(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == \
        {"light": "rgb(251, 251, 250)", "dark": "rgb(20, 22, 26)"}[scheme]
    assert faults == []


def test_what_cannot_run_is_told(browser: Any, host: str, folder: Path) -> None:
    """No WebAssembly, no JavaScript, a page from the disk, a file that is not there and then is."""
    context = browser.new_context()
    context.add_init_script("delete window.WebAssembly")
    page = context.new_page()
    page.goto(host)
    assert "no WebAssembly with SIMD: use a current Firefox" in page.get_by_role("alert").inner_text()
    assert page.locator("button:enabled").count() == 0
    plain = opened_page(browser, host, java_script_enabled=False).page
    assert "needs JavaScript" in plain.locator("main").inner_text()
    disk = opened_page(browser, (folder / "index.html").as_uri()).page
    assert "put its folder on a web server" in disk.get_by_role("status").inner_text()
    page, _ = ready(browser, host)
    page.get_by_label("What the model has learned").select_option("mini-vggsound")
    network = folder / "networks" / "sight.onnx"
    hidden = network.rename(network.with_suffix(".hidden"))
    page.get_by_label("Or a picture of it").set_input_files(
        {"name": "a.png", "mimeType": "image/png", "buffer": file_of(a_picture(70, 70))})
    page.get_by_role("button", name="Make the sound").click()
    page.get_by_role("alert").get_by_text("Networks/sight.onnx could not be loaded (404)").wait_for()
    hidden.rename(network)
    page.get_by_role("button", name="Make the sound").click()
    page.get_by_text("The picture, seed 0: made in").wait_for()
    for name, told in (("ort.wasm.min.mjs", "The work could not begin"), (RUNTIME[-1], "The work stopped")):
        file = folder / "runtime" / name
        hidden = file.rename(file.with_suffix(".hidden"))
        page, _ = ready(browser, host)
        for _ in range(2):
            page.get_by_role("button", name="Make the sound").click()
            page.get_by_role("alert").get_by_text(told).wait_for()
        hidden.rename(file)


def test_the_command_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, told in (([tmp_path / "page", "--bits", 4], "choose 8 or 16"),
                        ([BIN], "holds something else than a page"),
                        ([tmp_path / "page", "--vocoder", "griffin-lim"], "needs vocoder=magnitude")):
        assert main(["page", *map(str, words)]) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1, said
    assert not (tmp_path / "page").exists()
