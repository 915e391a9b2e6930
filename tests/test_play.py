"""The playground as `clipsynth play` serves it, driven in a browser: its sounds, what it refuses, two tabs at once."""
import base64
import http.client
import io
import json
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from browser import Opened, browser_with, check_screen, need_browser
from conftest import BIN, run, start, wait_until
from PIL import Image

from clipsynth.engine.request import COMBINATIONS, make_sounds, request_of
from clipsynth.engine.synth import Synthesizer
from clipsynth.results.play_media import BYTES
from clipsynth.worlds.drawings import draw
from clipsynth.worlds.world import Traits

need_browser()
pytest.importorskip("voila", reason="no page server: pip install clipsynth[play]")
MAIN = (BIN / "python", "-c", "from clipsynth.engine.command import main; raise SystemExit(main())", "play")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page on a free port."""
    process = start(*MAIN, "--port", 0, stdout=subprocess.PIPE)
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browser_with() as started:
        yield started


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Opened]]:
    """Opens the page in a window of its own, as soon as it is there; the model may still be loading."""
    contexts = []

    def open_page(width: int = 1280) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 844}, has_touch=width < 500)
        contexts.append(context)
        page, faults = context.new_page(), []
        page.set_default_timeout(120_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: faults.extend(
            [] if request.url.startswith((address, "data:", "blob:")) else [f"asked for {request.url}"]))
        page.goto(address)
        page.get_by_role("button", name="make the sound").wait_for()
        return Opened(page, faults)

    yield open_page
    for context in contexts:
        context.close()


def fill(page: Any, **dials: Any) -> None:
    """Type into dials by their labels; what is in a menu is chosen."""
    for label, value in dials.items():
        place = page.get_by_label(label.replace("_", " "), exact=True)
        if place.evaluate("(e) => e.tagName") == "SELECT":
            place.select_option(value)
        else:
            place.fill(str(value))
            place.press("Tab")


def press(page: Any) -> None:
    page.get_by_role("button", name="make the sound").click()


def heard(page: Any, *titles: str) -> list[np.ndarray]:
    """The sounds on the page, once all of these titles have one."""
    for title in titles:
        page.get_by_label(title, exact=True).and_(page.locator("audio")).wait_for()
    assert page.locator("audio").count() == len(titles) == page.locator("figure").count()
    sources = page.locator("audio").evaluate_all("(all) => all.map((one) => one.src)")
    return [soundfile.read(io.BytesIO(base64.b64decode(source.partition(",")[2])))[0] for source in sources]


def told(page: Any, text: str) -> None:
    page.get_by_text(text).wait_for()


def png() -> bytes:
    """A picture of a tuba."""
    file, traits = io.BytesIO(), Traits(0.5, 0.5, 0.5)
    Image.fromarray(draw("tuba", traits, np.random.default_rng(0), 96)).save(file, "PNG")
    return file.getvalue()


def choose(page: Any, what: str, name: str, content: bytes) -> None:
    """A file by the button and its dialogue."""
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name=f"{what} (0)").click()
    chooser.value.set_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})


def drop(page: Any, name: str, kind: str, content: bytes) -> None:
    """A file dropped somewhere on the page."""
    data = page.evaluate_handle("""([name, type, content]) => {
      const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0)), data = new DataTransfer();
      data.items.add(new File([bytes], name, { type }));
      return data;
    }""", [name, kind, base64.b64encode(content).decode()])
    page.dispatch_event("main", "drop", {"dataTransfer": data})


def test_queries(opened: Callable[..., Opened]) -> None:
    """A word before the model is there, two words, a picture, a sound made again; the sound is the library's."""
    page, faults = opened()
    assert page.locator("audio").count() == 0, "nothing is sampled before the press"
    fill(page, steps=3, query="cello")
    press(page)
    (sound,) = heard(page, "cello, seed 0")
    made = make_sounds(Synthesizer("mini-music", device="cpu"), request_of("cello", steps=3)).sounds[0]
    assert np.abs(sound - made.numpy()).max() < 1e-3
    check_screen(page)
    fill(page, sounds=2, blend_with="drum", its_share=0.3)
    press(page)
    two = heard(page, "cello, seed 0", "cello, seed 1")
    assert all(np.abs(one - sound).max() > 0.01 for one in two) and np.abs(two[0] - two[1]).max() > 0.01
    fill(page, sounds=1, blend_with="", query="violin and piano")
    page.get_by_label("“a and b”").select_option("all ways, side by side")
    press(page)
    page.locator("figure").nth(len(COMBINATIONS) - 1).locator("audio").wait_for()
    captions = page.locator("figcaption").all_inner_texts()
    assert [re.search(r"piano, (\w+):", caption)[1] for caption in captions] == [*COMBINATIONS]  # type: ignore[index]
    drop(page, "tuba.png", "image/png", png())
    page.get_by_alt_text("the picture that is the query").wait_for()
    page.get_by_label("“a and b”").select_option("words")
    press(page)
    (seen,) = heard(page, "the picture, seed 0")
    fill(page, query="flute", sound="the last one made", use="go on from it", seconds=6)
    page.get_by_alt_text("the picture that is the query").wait_for(state="detached")  # words take its place
    press(page)
    (longer,) = heard(page, "flute, seed 0")
    assert len(longer) == 6 * 16_000 and np.abs(longer[:60_000] - seen[:60_000]).max() < 1e-3
    page.get_by_role("slider", name="of the gap").press("End")
    page.get_by_role("img", name="moved 1.50 of the gap").wait_for()
    page.get_by_role("button", name="hear it there").click()
    heard(page, "violin, 1.50 of the gap, seed 0")
    assert faults == []


def test_refused_and_cancelled(opened: Callable[..., Opened]) -> None:
    """What is no picture, no sound, too large, no word; a long work that is called off; the page goes on."""
    page, faults = opened()
    choose(page, "picture", "<b>notes.png", b"no picture")
    told(page, "'<b>notes.png' is no picture: give one of png")
    choose(page, "picture", "large.png", png() + bytes(BYTES))
    told(page, "large.png has 8.0 MiB: 8 at most, make it smaller")
    choose(page, "sound", "a.wav", b"no sound")
    told(page, "'a.wav' is no sound: give a wav, flac, ogg or mp3 file")
    drop(page, "../../../../etc/passwd", "audio/wav", b"root")
    told(page, "etc/passwd' is no sound")
    assert "root:x" not in page.content()
    fill(page, query="__")
    press(page)
    told(page, "holds no word")
    fill(page, query="violin", seconds=60, steps=1000)
    press(page)
    page.locator("figure img").wait_for()  # it forms
    assert page.get_by_role("progressbar", name="progress").count() == 1
    assert page.get_by_role("button", name="make the sound").is_disabled()
    page.get_by_role("button", name="cancel").click()
    told(page, "cancelled")
    assert page.locator("figure").count() == 0 and page.get_by_role("button", name="cancel").is_disabled()
    fill(page, seconds=0, steps=2)
    press(page)
    heard(page, "violin, seed 0")
    assert faults == []


def kernel_of(page: Any) -> str:
    return json.loads(page.locator("#jupyter-config-data").text_content())["kernelId"]


def answer(address: str, path: str, **headers: str) -> tuple[int, bytes]:
    """What the server says to a path that no browser has tidied."""
    place = urlsplit(address)
    assert place.hostname
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=60)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    return response.status, response.read()


def test_two_tabs_one_of_them_a_phone(opened: Callable[..., Opened], address: str) -> None:
    """Each has its own query and its own kernel, which ends with its tab."""
    (one, wrong), (other, faults) = opened(), opened(390)
    kernels = [kernel_of(page) for page in (one, other)]
    for page, query in ((one, "drum"), (other, "flute")):
        fill(page, query=query, steps=2, sounds=2)
    for page in (one, other):
        press(page)
    for page, query in ((one, "drum"), (other, "flute")):
        heard(page, f"{query}, seed 0", f"{query}, seed 1")
    check_screen(other)
    assert kernels[0] != kernels[1] and wrong == faults == []
    one.close(run_before_unload=True)
    assert wait_until(lambda: answer(address, f"/api/kernels/{kernels[0]}")[0] == 404, pause=0.1)
    assert answer(address, f"/api/kernels/{kernels[1]}")[0] == 200


@pytest.mark.parametrize("path", [
    "/play.ipynb", "/voila/files/play.ipynb", "/voila/files/../page/play.ipynb", "/voila/render/play.ipynb",
    "/voila/files/..%2f..%2f..%2fetc%2fpasswd", "/voila/static/../../../../../../etc/passwd", "/voila/tree",
    "/voila/templates/clipsynth/static/../../../../../../etc/passwd", "/voila/api/contents/", "/api/kernels",
    "/voila/labextensions/../../../../../../../etc/passwd", "/voila/files//etc/passwd", "/api/contents/play.ipynb"])
def test_no_other_file_is_served(address: str, path: str) -> None:
    status, said = answer(address, path)
    assert status in (302, 403, 404, 500) and b"root:" not in said and b"nbformat" not in said


def test_other_names_of_this_machine_are_refused(address: str) -> None:
    """A page of another site that has its name lead here."""
    assert answer(address, "/", Host="evil.example")[0] == 403


def test_mistakes_are_one_line(address: str) -> None:
    for words, said in (
        (("--port", urlsplit(address).port), "choose another"),
        (("nobody",), "no weights 'nobody'"),
        (("--pages", 0), "give 1 or more"),
    ):
        done = run(*MAIN, *words, check=False)
        assert done.returncode == 2 and said in done.stderr, done.stderr
        assert done.stderr.startswith("clipsynth: ") and done.stderr.count("\n") == 1 and done.stdout == ""


def test_another_address_asks_for_a_token() -> None:
    process = start(*MAIN, "--host", "0.0.0.0", "--port", 0, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    said = process.stdout.readline()
    port, token = re.fullmatch(r"http://\S+:(\d+)/\?token=(\w{32,})\n", said).groups()  # type: ignore[union-attr]
    assert "other machines can reach it" in process.stderr.readline()
    status, page = answer(f"http://127.0.0.1:{port}/", "/")
    assert status in (302, 403) and b"kernelId" not in page and token.encode() not in page
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
