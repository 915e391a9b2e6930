"""The players of the notebooks play in a browser as they are saved: no kernel, no file beside them."""
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser_with, need_browser
from conftest import ROOT

need_browser()


def players(notebook: Path) -> str:
    """The saved outputs of a notebook that hold players."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    html = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs]
    return "".join(text for text in html if "<audio" in text)


NOTEBOOKS = [path for path in sorted((ROOT / "nbs").rglob("[!._]*.ipynb")) if players(path)]
LENGTHS = """() => Promise.all([...document.querySelectorAll("audio")].map(player => new Promise(done => {
  const told = () => done([player.getAttribute("aria-label"), player.error ? -1 : player.duration]);
  player.addEventListener("loadedmetadata", told);
  player.addEventListener("error", told);
  setTimeout(told, 20000);
  player.preload = "auto";
  player.load();
})))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browser_with() as started:
        yield started


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_player_has_a_name_and_a_sound(browser: Any, notebook: Path) -> None:
    page = browser.new_page()
    page.set_content(f"<html lang='en'><title>players</title><main>{players(notebook)}</main>")
    found = page.evaluate(LENGTHS)
    page.close()
    assert found and all(name and seconds and seconds > 1 for name, seconds in found), found
    assert len({name for name, _ in found}) == len(found), "two players have the same name"


def test_a_player_without_a_sound_is_noticed(browser: Any) -> None:
    page = browser.new_page()
    page.set_content("<audio controls aria-label='nothing' src='data:audio/ogg;base64,T2dnUwAC'></audio>")
    assert page.evaluate(LENGTHS) == [["nothing", -1]]
    page.close()
