"""The time to the first sound, of the playground and beside it: bench/results/play.json.

Every way starts from nothing in a process of its own, in turns, and gives the same: the sound of a violin, by the same
network in as many steps. `command` is `clipsynth synth` to a file. `library` is a Python that makes a `Synthesizer` and
calls it, then again. `play` is `clipsynth play` and a browser that presses the button as soon as it is there, then
again with another seed. `gradio` is a page of two fields with the same `Synthesizer` behind it, which its server has
loaded before it listens; it is left out where Gradio is not installed (our library does not need it).

Cold is from the start of the command to the sound; visit, from opening the page to the sound; press, from a press at
the moment when the button is there to the sound; warm, from a press to the sound once everything is loaded. Ratios are
medians over rounds, within each round, so that what else the machine does meets all alike.

Usage: python bench/play.py [--rounds 3]      (two minutes on two cores; needs Chromium)
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
from timing import in_fresh_process, machine, save, spent

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from browser import browser_with  # noqa: E402 - the tests' own

RESULTS = Path(__file__).parent / "results" / "play.json"
COMMAND = [sys.executable, "-c", "from clipsynth.engine.command import main; raise SystemExit(main())"]
GRADIO = """
import gradio
from clipsynth.engine.synth import Synthesizer
from clipsynth.model.audio import to_int16
synthesizer = Synthesizer("mini-music", device="cpu")
synthesizer("violin")
def make(query, seed):
    return 16_000, to_int16(synthesizer(query, seed=int(seed)))
with gradio.Blocks(analytics_enabled=False) as page:
    query, seed = gradio.Textbox("violin", label="query"), gradio.Number(0, label="seed")
    button, sound = gradio.Button("make the sound"), gradio.Audio(label="sound", autoplay=True)
    button.click(make, [query, seed], sound)
_, address, _ = page.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
print(address, flush=True)
page.block_thread()
"""
Round = dict[str, float]  # seconds, by way and what they are of


@contextmanager
def server(*command: str) -> Iterator[tuple[str, float]]:
    """A page's address, and when its command was started."""
    began = time.perf_counter()
    quiet = {**os.environ, "CLIPSYNTH_QUIET": "1", "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet)
    try:
        assert process.stdout
        found = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)), None)
        if found is None:
            raise SystemExit(f"no page: {' '.join(command)[:80]} has ended")
        yield found[0], began
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def on_a_page(browser: Any, command: list[str], press: Callable[[Any, int], None], warm: int = 3) -> Round:
    """Seconds to the first sound of a page, and to later ones."""
    with server(*command) as (address, began):
        page = browser.new_page()
        page.set_default_timeout(120_000)
        opened = time.perf_counter()
        page.goto(address)
        page.get_by_role("button", name="make the sound").wait_for()
        there = time.perf_counter()
        press(page, 0)
        first = time.perf_counter()
        later = []
        for seed in range(1, warm + 1):
            page.get_by_label("seed", exact=True).fill(str(seed))
            page.get_by_label("seed", exact=True).press("Tab")
            page.wait_for_timeout(500)  # the page has told its server of the seed
            later.append(spent(press, page, seed))
        page.close(run_before_unload=True)
    found = {"cold": first - began, "visit": first - opened, "press": first - there}
    return found | {"warm": statistics.median(later)}


def press_play(page: Any, seed: int) -> None:
    """Press the button and wait for the sound of the seed."""
    page.get_by_role("button", name="make the sound").click()
    page.locator(f"audio[aria-label='violin, seed {seed}']").wait_for(state="attached")


def press_gradio(page: Any, seed: int) -> None:
    """Press the button and wait until the page has fetched the sound."""
    with page.expect_response(lambda response: "file=" in response.url and response.url.endswith(".wav")) as fetched:
        page.get_by_role("button", name="make the sound").click()
    fetched.value.finished()


def in_the_library() -> Round:
    """In this process: from its start to the first sound, and until the next."""
    from clipsynth.engine.synth import Synthesizer

    synthesizer = Synthesizer("mini-music", device="cpu")
    synthesizer("violin")
    cold = time.time() - psutil.Process().create_time()
    return {"cold": cold, "warm": statistics.median(spent(synthesizer, "violin", None, seed) for seed in (1, 2, 3))}


def one_round(browser: Any) -> Round:
    """Every way once."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        words = [*COMMAND, "synth", "violin", "-o", f"{folder}/violin.wav"]
        found["command, cold"] = spent(lambda: subprocess.run(words, check=True, stderr=subprocess.DEVNULL))
    ways: dict[str, Callable[[], Round]] = {
        "library": lambda: in_fresh_process(__file__),
        "play": lambda: on_a_page(browser, [*COMMAND, "play", "--port", "0"], press_play),
    }
    if find_spec("gradio"):
        ways["gradio"] = lambda: on_a_page(browser, [sys.executable, "-c", GRADIO], press_gradio)
    for name, way in ways.items():
        found |= {f"{name}, {what}": seconds for what, seconds in way().items()}
    return found


def ratio(rounds: list[Round], one: str, other: str) -> float:
    """How many times the seconds of another one way takes."""
    return statistics.median(found[one] / found[other] for found in rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(in_the_library()))
        sys.exit()
    with browser_with() as started:
        rounds = [one_round(started) for _ in range(arguments.rounds)]
    seconds = {name: statistics.median(found[name] for found in rounds) for name in rounds[0]}
    pairs = [("play, cold", "command, cold"), ("play, cold", "gradio, cold"), ("play, visit", "gradio, visit"),
             ("play, press", "library, cold"), ("play, warm", "library, warm"), ("play, warm", "gradio, warm")]
    ratios = {f"{one} / {other}": ratio(rounds, one, other) for one, other in pairs if other in seconds}
    save(RESULTS, machine() | {"rounds": arguments.rounds, "seconds": seconds, "ratios": ratios})
    for name, value in (seconds | ratios).items():
        print(f"{name:32} {value:7.2f}")
