"""The listening test in a browser, as a listener takes it: static page and server, wide and narrow, mouse and keys."""
import json
import re
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Opened, browser_with, check_screen, need_browser, static_host
from conftest import BIN, start, wait_until
from listener import EARS, QUERIES, Person, small_test

from clipsynth.listen.test_folder import ListeningTest

need_browser()
pytest.importorskip("starlette", reason="no server: pip install clipsynth[listen]")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser in which only a gesture unlocks sound."""
    with browser_with() as started:
        yield started


@pytest.fixture(scope="module")
def test(tmp_path_factory: pytest.TempPathFactory) -> ListeningTest:
    return small_test(tmp_path_factory.mktemp("listening") / "test")


@pytest.fixture(scope="module")
def host(test: ListeningTest) -> Iterator[str]:
    """The folder on a static web server."""
    with static_host(test.folder) as address:
        yield address


@pytest.fixture(scope="module")
def served(test: ListeningTest) -> Iterator[str]:
    """The same test on our server, as the command starts it."""
    process = start(BIN / "python", "-c",
                    "from clipsynth.engine.command import main; raise SystemExit(main())",
                    "listen", "serve", test.folder, "--port", 0, stdout=subprocess.PIPE)
    assert process.stdout is not None
    yield process.stdout.readline().split()[0]
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    """Opens a page in a window of its own."""
    contexts = []

    def open_page(address: str, width: int = 1280, **more: Any) -> Opened:
        context = browser.new_context(viewport={"width": width, "height": 844}, **more)
        contexts.append(context)
        context.add_init_script(EARS)
        page, faults = context.new_page(), []
        page.set_default_timeout(60_000)
        begin = address.rpartition("/")[0]
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: faults.extend(
            [] if request.url.startswith((begin, "data:", "blob:")) else [f"asked for {request.url}"]))
        page.goto(address)
        return Opened(page, faults)

    yield open_page
    for context in contexts:
        context.close()


def result_of(page: Any) -> dict[str, Any]:
    """The result as it is saved, and as it is shown to be copied."""
    page.get_by_role("heading", name="Thank you").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Save the result").click()
    text = Path(saved.value.path()).read_text(encoding="utf-8")
    assert page.locator("#result").input_value() == text
    assert re.fullmatch(r"listening-\d+-[0-9A-F]{8}\.json", saved.value.suggested_filename)
    return json.loads(text)


def check_votes(test: ListeningTest, slot: int, votes: list[dict[str, Any]], score: float) -> None:
    """Every question of every trial once, after both sounds were heard."""
    wanted = [(trial["id"], name) for trial in test.of_slot(slot) for name in trial["criteria"]]
    assert [(vote["trial"], vote["criterion"]) for vote in votes] == wanted
    assert len({vote["vote_id"] for vote in votes}) == len(votes) and {vote["score"] for vote in votes} == {score}
    assert all(vote["played_left"] >= 0.42 and vote["played_right"] >= 0.42 for vote in votes)
    assert all(0.8 < vote["seconds"] < 600 for vote in votes)


def test_static_page_with_a_reload(browser: Any, test: ListeningTest, host: str, opened: Callable[..., Opened]) -> None:
    """A mouse; the headphone check is failed once; a reload in the middle loses nothing."""
    page, faults = opened(f"{host}?slot=1")
    assert page.title().startswith("Test </script>") and page.evaluate("window.played") == []
    person = Person(page)
    check_screen(page)
    person.to_headphones()
    person.check_headphones(right=False)
    assert person.heading() == "Once more, please"
    person.press("Try again")
    person.check_headphones()
    assert sorted(page.evaluate("window.signs")) == [-1, 1, 1]
    person.trials(3, "1")
    page.reload()
    assert person.heading() == "Welcome back" and "2 of 5 pairs" in page.locator("main").inner_text()
    person.trials(3, "1")
    found = result_of(page)
    assert person.seen == ["Practice 1 of 1", *(f"Pair {n} of 5" for n in range(1, 6))]
    assert {name: found[name] for name in ("design", "slot", "headphones")} == {
        "design": test.digest, "slot": 1, "headphones": 1}
    assert re.fullmatch(r"[0-9a-f]{32}", found["listener"]) and page.locator("#code").inner_text() == found["code"]
    check_votes(test, 1, found["votes"], 1)
    page.reload()
    assert result_of(page) == found, "the end is kept, too"
    assert faults == []


def test_passes_on_a_phone_by_keys(tmp_path: Path, opened: Callable[..., Opened]) -> None:
    """Keys alone, 390 pixels, every screen checked; a question at a time, the query only where it is asked about."""
    test = small_test(tmp_path / "test", form="passes", pairs=1)
    with static_host(test.folder) as host:
        page, faults = opened(f"{host}?slot=0", 390, color_scheme="dark", has_touch=True)
        person = Person(page, keys=True)
        person.press("I agree, begin")
        person.press("Play a sound")
        check_screen(page)
        person.press("Go on")
        check_screen(page)
        person.check_headphones()
        check_screen(page)
        person.press("Practise")
        assert person.heading() == "Practice 1 of 1"
        assert page.locator("fieldset:disabled").count() == 3 and page.get_by_role("button", name="Next").is_disabled()
        check_screen(page)
        person.trials(len(test.of_slot(0)), "0")
        found = result_of(page)
        check_screen(page)
    check_votes(test, 0, found["votes"], 0)
    assert person.asked == [tuple(trial["criteria"]) for trial in test.of_slot(0)]
    assert [head for head in person.seen if head.startswith("Part")] == [f"Part {n} of 3" for n in (1, 2, 3)]
    wanted = [trial["query"] for trial in test.of_slot(0) if "relevance" in trial["criteria"]]
    assert person.words == [f"“{query}”" for query in wanted] and {*wanted} <= {*QUERIES}
    assert page.locator(".query b b").count() == 0 and faults == []


def votes_in(test: ListeningTest) -> list[dict[str, Any]]:
    """The votes in the server's database, in order."""
    with sqlite3.connect(test.folder.with_name("test.votes.sqlite")) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM votes ORDER BY listener, position, rowid").fetchall()
    return [dict(row) for row in rows]


@pytest.mark.parametrize("width", [1280, 390])
def test_served_page(test: ListeningTest, served: str, opened: Callable[..., Opened], width: int) -> None:
    """Sounds are lost on the way and the connection breaks for a while; a reload in the middle."""
    page, faults = opened(served, width, has_touch=width < 500)
    assert test.design["slots"][0][0]["id"] not in page.content(), "no trial before consent"
    broken = {"sounds": 2, "votes": 0}

    def cut(route: Any) -> None:
        if broken["sounds"]:
            broken["sounds"] -= 1
            whole = route.fetch()
            route.fulfill(response=whole, body=whole.body()[:-100])
        else:
            route.continue_()

    page.route("**/sounds/*.wav", cut)
    person = Person(page)
    person.to_headphones()
    assert broken["sounds"] == 0
    person.check_headphones()
    others = len(votes_in(test))
    person.trials(2)
    assert wait_until(lambda: len(votes_in(test)) == others + 6), "each vote is sent at once"
    before = {vote["vote_id"] for vote in votes_in(test)}
    page.route("**/api/votes", lambda route: route.abort())
    person.trials(1)
    page.get_by_text("The server cannot be reached").wait_for()
    check_screen(page)
    page.reload()
    page.unroute("**/api/votes")
    assert person.heading() == "Welcome back"
    person.trials(3)
    page.get_by_text("All answers are saved.").wait_for()
    check_screen(page)
    code = page.locator("#code").inner_text()
    with sqlite3.connect(test.folder.with_name("test.votes.sqlite")) as db:
        who = db.execute("SELECT listener, slot, finished, headphones FROM listeners WHERE code=?", [code]).fetchall()
    assert len(who) == 1 and who[0][2] and who[0][3] == 1
    mine = [vote for vote in votes_in(test) if vote["listener"] == who[0][0]]
    assert len([vote for vote in mine if vote["vote_id"] in before]) == 6
    check_votes(test, who[0][1], mine, 0.5)
    assert all("net::ERR_FAILED" in fault for fault in faults), faults


def test_what_stops_a_listener_is_told(test: ListeningTest, host: str, opened: Callable[..., Opened]) -> None:
    """A page from the disk, a sound that is not there, a listener who comes back too late, no JavaScript."""
    page = opened((test.folder / "index.html").as_uri()).page
    page.get_by_role("button", name="I agree").click()
    assert "put the folder on a web server" in page.get_by_role("alert").inner_text()
    page, _ = opened(host)
    page.clock.install()
    page.route("**/sounds/*.wav", lambda route: route.abort())
    page.get_by_role("button", name="I agree").click()
    page.get_by_role("heading", name="Sound").wait_for()
    for _ in range(40):
        page.clock.run_for(3_000)
        page.evaluate("fetch('.')")
    assert "could not be loaded" in page.get_by_role("alert").inner_text()
    assert page.get_by_role("button", name="Try again").is_visible()
    page.evaluate("""() => {
      const [name] = Object.keys(localStorage), kept = JSON.parse(localStorage[name]);
      localStorage[name] = JSON.stringify({ ...kept, started: kept.started - 25 * 3600e3 });
    }""")
    page.reload()
    assert "too long ago" in page.get_by_role("status").inner_text()
    assert page.get_by_role("button", name="I agree").is_visible()
    plain = opened(host, java_script_enabled=False).page
    assert "needs JavaScript" in plain.locator("main").inner_text()
