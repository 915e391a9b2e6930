"""A small listening test of short sounds, and a listener in a browser."""
import re
from pathlib import Path
from typing import Any

from conftest import wait_until

from clipsynth.base.hashing import numpy_rng
from clipsynth.listen.building import build_test
from clipsynth.listen.design import Plan
from clipsynth.listen.sounds import SoundKey, Sounds
from clipsynth.listen.test_folder import ListeningTest, Rules, read_test

QUERIES = ("dog barking", "violin & <b>bow</b>", "rain", "church bell")
SCRIPT = "</script><script>document.title = 'broken'</script>"


def small_sounds(seconds: float = 0.45, rate: int = 16_000) -> Sounds:
    """Noises of three systems, and of real sound."""
    keys = [SoundKey(system, "tiny", query, "0") for system in ("alpha", "beta", "gamma", "real") for query in QUERIES]
    return Sounds(rate, {key: 0.1 * numpy_rng("listening", *key).normal(size=round(seconds * rate)) for key in keys})


def small_test(folder: Path, rules: dict[str, Any] | None = None, **plan: Any) -> ListeningTest:
    """A listening test with a hostile title, built as a lab would."""
    size = {"listeners": 3, "pairs": 2, **plan}
    checks = {"headphone_trials": 1, "headphone_right": 1, "tone_seconds": 0.4, **(rules or {})}
    build_test(folder, small_sounds(), Plan(**size), Rules(**checks), {"title": f"Test {SCRIPT}"}, salt="salt")
    return read_test(folder)


def answers(test: ListeningTest, slot: int, score: float = 0.5, tag: int = 0) -> list[list[dict[str, Any]]]:
    """What a listener's page would send, one request for each trial."""
    found = []
    for place, trial in enumerate(test.of_slot(slot)):
        about = {"seconds": 3.0, "played_left": 0.45, "played_right": 0.45, "position": place, "score": score}
        found.append([{"vote_id": f"{tag:08x}{place:04x}{number:04x}{trial['id']}", "trial": trial["id"],
                       "criterion": name, **about} for number, name in enumerate(trial["criteria"])])
    return found


EARS = """(() => {
  const start = AudioBufferSourceNode.prototype.start;
  window.played = [];
  AudioBufferSourceNode.prototype.start = function (...how) {
    if (this.buffer.numberOfChannels === 2) {
      const [left, right] = [0, 1].map((side) => this.buffer.getChannelData(side)), long = left.length / 4;
      const cut = (data, tone) => data.slice(1.5 * tone * long, (1.5 * tone + 1) * long);
      const parts = [0, 1, 2].map((tone) => [cut(left, tone), cut(right, tone)]);
      const level = parts.map(([a]) => a.reduce((sum, x) => sum + x * x, 0));
      window.softest = level.indexOf(Math.min(...level));
      window.signs = parts.map(([a, b]) => Math.sign(a.reduce((sum, x, n) => sum + x * b[n], 0)));
    } else window.played.push(this.buffer.length);
    return start.apply(this, how);
  };
})();"""


def wait(page: Any, expression: str, arg: Any = None) -> None:
    """Until something is true on a page whose policy forbids the eval of `wait_for_function`."""
    assert wait_until(lambda: bool(page.evaluate(expression, arg)), pause=0.03), expression


class Person:
    """A listener at a browser window, with a mouse or with keys alone."""

    def __init__(self, page: Any, keys: bool = False):
        self.page, self.keys = page, keys
        self.seen: list[str] = []  # headings, in order
        self.asked: list[tuple[str, ...]] = []  # what each trial asked
        self.words: list[str] = []  # queries that were shown

    def heading(self) -> str:
        wait(self.page, "document.activeElement.tagName === 'H1'")
        return self.page.locator("h1").inner_text()

    def press(self, name: str) -> None:
        """A button: waits until it can be used."""
        button = self.page.get_by_role("button", name=name, exact=True)
        wait(self.page, "(name) => [...document.querySelectorAll('button:enabled')].some((b) => b.innerText === name)",
             name)
        if not self.keys:
            button.click()
            return
        self.tab_to("document.activeElement.tagName === 'BUTTON' && document.activeElement.textContent", name)
        self.page.keyboard.press("Enter")

    def tab_to(self, what: str, wanted: str) -> None:
        for _ in range(40):
            if self.page.evaluate(what) == wanted:
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"no way by Tab to {wanted}")

    def choose(self, group: str, value: str) -> None:
        """An answer of a radio group."""
        choice = self.page.locator(f'input[name="{group}"][value="{value}"]')
        wait(self.page, "(name) => !document.querySelector(`input[name='${name}']`).closest('fieldset').disabled",
             group)
        if not self.keys:
            choice.check()
            return
        self.tab_to("document.activeElement.tagName === 'INPUT' && document.activeElement.name", group)
        self.page.keyboard.press("Space")
        for _ in range(4):
            if choice.is_checked():
                return
            self.page.keyboard.press("ArrowRight")
        raise AssertionError(f"no way by arrows to {group}: {value}")

    def hear(self) -> None:
        """Both sounds to the end."""
        for place, name in enumerate(("A", "B")):
            self.press(f"Play sound {name}")
            wait(self.page, "(n) => document.querySelectorAll('.sound span')[n].textContent === 'Heard'",
                 place)

    def to_headphones(self) -> None:
        self.press("I agree, begin")
        self.press("Play a sound")
        self.press("Go on")

    def check_headphones(self, right: bool = True) -> None:
        self.press("Play three tones")
        wait(self.page, "document.getElementById('status').textContent === 'You can answer now.'")
        softest = self.page.evaluate("window.softest")
        self.choose("tone", str(softest if right else (softest + 1) % 3))
        self.press("Next")

    def trial(self, score: str) -> None:
        """One pair; every question gets the same answer."""
        self.seen.append(self.heading())
        self.hear()
        names = self.page.locator("fieldset").evaluate_all("all => all.map((f) => f.querySelector('input').name)")
        self.asked.append(tuple(names))
        self.words += self.page.locator(".query b").all_inner_texts()
        for name in names:
            self.choose(name, score)
        self.press("Next")

    def trials(self, count: int, score: str = "0.5") -> None:
        """So many pairs, with the screens between."""
        while count:
            head = self.heading()
            if re.fullmatch(r"(Pair|Practice) \d+ of \d+", head):
                self.trial(score)
                count -= 1
            else:
                self.seen += [head] if head.startswith("Part") else []
                self.press({"How it goes": "Practise", "Now the test itself": "Begin"}.get(head, "Go on"))
