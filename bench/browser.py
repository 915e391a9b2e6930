"""The page without Python beside Python, both on one thread, in the same run: bench/results/browser.json.

cold   the page: from a click on a page that is being opened to the sound, networks and runtime read from this machine;
       Python: `clipsynth synth violin` in a fresh process
warm   every later sound: the page's by the clock of the page, Python's by that of `Synthesizer`
bytes  what travels: networks, runtime, all else, and all of it as a server that compresses sends it

Seconds are medians over rounds in which both take their turns, by the wall's clock, so that they are what a user waits
on a machine that is as busy as this one. engine/browser_page shows the results.

Usage: python bench/browser.py      (about 2 minutes; needs Chromium, and a network the first time)
"""

import argparse
import gzip
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from timing import Times, machine, medians, save, spent

from clipsynth.engine.browser_page import VERSION, write_page
from clipsynth.engine.synth import Synthesizer

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from browser import browser_with, static_host  # noqa: E402

PLAYS = "--autoplay-policy=no-user-gesture-required"
SOUND = "clipsynth.ask({world: 'mini-music', words: 'violin', seed: 0, steps: 10}).then((found) => found.seconds)"


def made(page: Any) -> None:
    """Click, and wait for the sound."""
    page.get_by_role("button", name="Make the sound").click()
    page.get_by_text("made in").wait_for(timeout=120_000)


def in_the_browser(browser: Any, address: str, sounds: int) -> tuple[float, list[float]]:
    """Seconds from the click to the sound on a page that was never opened, and of every later sound."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(address, wait_until="commit")
    page.locator("#make:not([disabled])").wait_for()
    cold = spent(made, page)
    warm = [page.evaluate(SOUND) for _ in range(sounds)]
    context.close()
    return cold, warm


def in_python(synthesizer: Synthesizer, folder: Path, sounds: int) -> tuple[float, list[float]]:
    """Seconds of a command in a fresh process, and of every later sound in this one."""
    code = "import sys; from clipsynth.engine.command import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "synth", "violin", "-o", str(folder / "violin.wav"), "--device", "cpu"]
    cold = spent(lambda: subprocess.run(command, check=True))
    return cold, [spent(synthesizer, "violin") for _ in range(sounds)]


def sizes(folder: Path) -> dict[str, int]:
    """What travels, in bytes."""
    files = {path: path.read_bytes() for path in sorted(folder.rglob("*.*"))}
    found = {"networks": 0, "runtime": 0, "all else": 0}
    for path, content in files.items():
        kind = path.relative_to(folder).parts[0]
        found[kind if kind in found else "all else"] += len(content)
    return found | {"compressed": sum(len(gzip.compress(content)) for content in files.values())}


def main() -> None:
    """Measure, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sounds", type=int, default=5, help="warm ones in each round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    times: Times = {f"{way} {state}": [] for way in ("page", "python") for state in ("cold", "warm")}
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        folder = write_page(Path(name, "page")).parent
        writing = time.perf_counter() - began
        synthesizer = Synthesizer("mini-music", device="cpu")
        synthesizer("violin")
        with browser_with(PLAYS) as browser, static_host(folder) as address:
            about = {"browser": f"Chromium {browser.version}", "onnxruntime-web": VERSION, "threads": 1}
            for _ in range(options.rounds):
                both = {"page": in_the_browser(browser, address, options.sounds),
                        "python": in_python(synthesizer, Path(name), options.sounds)}
                for way, (cold, warm) in both.items():
                    times[f"{way} cold"].append(cold)
                    times[f"{way} warm"] += warm
        middle = medians(times)
        seconds = {way: {state: middle[f"{way} {state}"] for state in ("cold", "warm")} for way in ("page", "python")}
        save(ROOT / "bench" / "results" / "browser.json",
             {"with": machine() | about, "seconds": seconds, "slowest": {k: max(v) for k, v in times.items()},
              "rounds": options.rounds, "writing the page": writing, "bytes": sizes(folder)})


if __name__ == "__main__":
    main()
