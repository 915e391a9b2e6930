"""The page of the reports works in a browser that is installed: sounds, keys, search, colours, every screen."""
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import browser_with, need_browser, static_host
from browser import opened_page as opened
from conftest import ROOT

REPORTS = ROOT / "reports"
SOUNDS = {path.relative_to(REPORTS).as_posix() for path in (REPORTS / "gallery").rglob("*.ogg")}
need_browser()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with browser_with("--autoplay-policy=no-user-gesture-required") as started:
        yield started


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    """The reports on a static web server."""
    with static_host(REPORTS) as address:
        yield address


DISK = (REPORTS / "index.html").as_uri()
PLAY = """async (buttons) => {
  const player = document.getElementById("player"), found = [];
  for (const button of buttons) {
    button.click();
    const start = performance.now();
    while (!(player.currentTime > 0.05 && player.readyState >= 2) && !player.error && performance.now() - start < 60000)
      await new Promise((done) => setTimeout(done, 10));
    const pressed = document.querySelectorAll("button[aria-pressed=true]").length, own = button.dataset.src;
    found.push([own, player.currentTime > 0.05, player.readyState >= 2, player.duration, pressed,
                player.currentSrc.endsWith(own)]);
  }
  player.pause();
  return found;
}"""


def test_every_player_plays(browser: Any) -> None:
    """From the disk: its own sound, whole, one at a time; nothing was loaded before."""
    page, faults = opened(browser, DISK)
    assert page.evaluate("performance.getEntriesByType('resource').filter((e) => e.name.endsWith('.ogg')).length") == 0
    played = page.locator("button.play").evaluate_all(PLAY)
    assert {name for name, *_ in played} == SOUNDS and len(played) == len(SOUNDS)
    still = [about for about in played if not (about[1] and about[2] and about[3] > 3.5 and about[4] == 1 and about[5])]
    assert still == [] and faults == []


def test_plays_from_a_web_server(browser: Any, host: str) -> None:
    page, faults = opened(browser, host)
    played = page.locator("button.play:first-child").evaluate_all(PLAY)
    assert len(played) == page.locator(".class").count() and all(about[1] and about[3] > 3.5 for about in played)
    assert faults == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_fits_and_can_be_used_by_all(browser: Any, width: int, scheme: str) -> None:
    """Nothing overflows, axe finds nothing, all pictures are there."""
    from axe_playwright_python.sync_playwright import Axe

    page, faults = opened(browser, DISK, width, scheme, has_touch=width < 500)
    over = page.evaluate("""() => [...document.querySelectorAll("main *, header *, footer *")]
        .filter((e) => !e.closest(".scroll, nav, .tile, .hidden") && e.getBoundingClientRect().right > innerWidth + 1)
        .map((e) => e.outerHTML.slice(0, 99))""")
    assert over == [] and page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == \
        {"light": "rgb(251, 251, 250)", "dark": "rgb(20, 22, 26)"}[scheme]
    page.evaluate("document.querySelectorAll('img').forEach((picture) => { picture.loading = 'eager'; })")
    page.evaluate("document.querySelectorAll('details').forEach((more) => { more.open = true; })")
    page.wait_for_function("[...document.images].every((picture) => picture.complete)")
    assert page.evaluate("[...document.images].filter((picture) => !picture.naturalWidth).length") == 0
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert faults == []


@pytest.mark.parametrize("width", [390, 1280])
def test_tables_and_figures_can_be_read(browser: Any, width: int) -> None:
    """On a phone a claim says its verdict and a system its query in the first column, and figures keep their size."""
    page = opened(browser, DISK, width).page
    phone = width < 500
    told = page.locator("#claims th[scope=row] .narrow")
    assert told.count() == page.locator("#claims tbody tr").count() > 10
    assert all(told.nth(number).is_visible() == phone for number in range(told.count()))
    assert page.locator("#table-1 tbody th[scope=row]", has_text="CLIPSynth").nth(0).inner_text().split() == \
        (["CLIPSynth", "text"] if phone else ["CLIPSynth"])
    picture = page.locator("#figures img[src='figures/table1.png']")
    shown, whole = picture.bounding_box()["width"], int(picture.get_attribute("width"))
    assert shown == whole if phone else 1_000 < shown <= whole
    name = page.locator("#table-1 tbody th[scope=row]").first
    box = page.locator("#table-1 .scroll").first
    box.evaluate("(box) => { box.scrollLeft = box.scrollWidth; }")
    assert abs(name.bounding_box()["x"] - box.bounding_box()["x"]) < 2, "the system's name stays in view"


def test_search(browser: Any) -> None:
    page, faults = opened(browser, DISK)
    every = page.locator(".class").count()
    page.get_by_label("Find a class").fill("VIOLIN")
    assert page.locator(".class:visible h4").all_inner_texts() == ["violin", "playing violin, fiddle"]
    assert page.get_by_role("status").inner_text() == f"2 of {every} classes"
    page.get_by_label("Find a class").fill("fiddle playing")
    assert page.locator(".class:visible h4").all_inner_texts() == ["playing violin, fiddle"], "every word, in any order"
    page.get_by_label("Find a class").fill("dog violin")
    assert page.locator(".class:visible").count() == 0, "a class has every word"
    page.get_by_label("Find a class").fill("minivggsound dog")
    assert page.locator(".class:visible h4").all_inner_texts() == ["dog barking"]
    assert page.locator(".world:visible").count() == 1
    page.get_by_label("Find a class").fill("<b>")
    assert page.get_by_text("No class has this in its name.").is_visible()
    page.get_by_label("Find a class").fill("")
    assert page.locator(".class:visible").count() == every and faults == []


def pressed(page: Any) -> list[str]:
    return page.locator("button.play[aria-pressed=true]").evaluate_all("all => all.map((b) => b.ariaLabel)")


def test_keys_reach_every_player(browser: Any) -> None:
    """One tab stop for a class, arrows inside; what has the focus is outlined; Space and Enter play."""
    page, faults = opened(browser, DISK)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    here = "document.activeElement.ariaLabel"
    page.get_by_label("Find a class").focus()
    page.keyboard.press("Tab")
    labels = "all => all.map((c) => [...c.querySelectorAll('button')].map((b) => b.ariaLabel))"
    rows = page.locator(".class").evaluate_all(labels)
    seen = []
    for row in rows:
        for _ in row:
            seen.append(page.evaluate(here))
            page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
    assert seen == [name for row in rows for name in row], "each once, in order"
    page.keyboard.press("Tab")
    assert page.evaluate(here) is None, "a row is one tab stop"
    page.locator("button.play").nth(1).focus()
    page.keyboard.press("ArrowRight")
    assert "3px" in page.evaluate("getComputedStyle(document.activeElement).outline")
    for key in (" ", "Enter"):
        page.keyboard.press(key)
        page.wait_for_function("document.activeElement.ariaPressed === 'true'")
        assert pressed(page) == [page.evaluate(here)]
        page.keyboard.press(key)
        page.wait_for_function("document.activeElement.ariaPressed === 'false'")
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.ariaPressed === 'true'")
    page.keyboard.press("Escape")
    assert pressed(page) == [] and page.evaluate("document.getElementById('player').paused")
    assert faults == []


def test_colours_can_be_chosen(browser: Any) -> None:
    page, faults = opened(browser, DISK)
    paper = "getComputedStyle(document.body).backgroundColor"
    button, seen = page.locator("#theme"), []
    for _ in range(4):
        seen.append((button.get_attribute("aria-label"), page.evaluate(paper)))
        button.click()
    light, dark = "rgb(251, 251, 250)", "rgb(20, 22, 26)"
    assert seen == [("Colours: automatic", light), ("Colours: light", light), ("Colours: dark", dark),
                    ("Colours: automatic", light)]
    button.click()
    page.reload()
    assert page.evaluate(paper) == dark and faults == [], "the choice is kept"


def test_a_sound_that_is_not_there_is_told(browser: Any, tmp_path: Path) -> None:
    copy = tmp_path / "index.html"
    shutil.copyfile(REPORTS / "index.html", copy)
    page = opened(browser, copy.as_uri()).page
    page.locator("button.play").first.click()
    page.get_by_role("alert").wait_for()
    assert "real test sound, recorded: accordion cannot be played" in page.get_by_role("alert").inner_text()
    assert pressed(page) == []


def test_works_without_javascript(browser: Any) -> None:
    page, faults = opened(browser, DISK, java_script_enabled=False)
    assert page.locator("a.play").count() == len(SOUNDS)
    assert page.get_by_label("Find a class").is_hidden() and page.locator("noscript p").is_visible()
    first = page.locator("a.play").first
    assert (REPORTS / first.get_attribute("href")).exists() and first.get_attribute("aria-label")
    assert page.locator("#table-1 tbody th[scope=row]").count() > 10 and faults == []
