"""A browser of this machine for tests of pages, and a static web server for them."""
import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--mute-audio"]
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Opened(NamedTuple):
    """A page, and what went wrong on it or left the machine."""
    page: Any
    faults: list[str]


def need_browser() -> None:
    """Skip a module where no browser is installed."""
    if not BROWSER:
        pytest.skip("no browser: apt-get install chromium", allow_module_level=True)


@contextmanager
def browser_with(*flags: str) -> Iterator[Any]:
    """A browser of this machine; none is downloaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=[*FLAGS, *flags])
        yield started
        started.close()


def opened_page(browser: Any, address: str, width: int = 1280, scheme: str = "light", **more: Any) -> Opened:
    """A page in a window of its own; what it says, what fails and what it asks of others is a fault."""
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme, **more)
    page, faults = context.new_page(), []
    start = address.rpartition("/")[0]
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.extend(
        [] if request.url.startswith((start, "data:", "blob:")) else [f"asked for {request.url}"]))
    page.on("requestfailed", lambda request: faults.extend(
        [] if request.resource_type == "media" else [f"failed: {request.url}"]))
    page.goto(address)
    return Opened(page, faults)


def check_screen(page: Any) -> None:
    """Nothing overflows, and axe finds nothing."""
    from axe_playwright_python.sync_playwright import Axe

    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    assert page.evaluate("[...document.querySelectorAll('main *')].filter((e) => e.getBoundingClientRect().right > "
                         "innerWidth + 1).map((e) => e.outerHTML.slice(0, 99))") == []
    found = Axe().run(page, options={"rules": {"region": {"enabled": True}}})
    assert found.violations_count == 0, found.generate_report()


@contextmanager
def static_host(folder: Path) -> Iterator[str]:
    """A folder on a static web server: the address of its index.html."""
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()
