"""Write constraints.txt: the versions of this environment that `pip install -e ".[dev]"` needs, and no others."""
from collections.abc import Iterator
from configparser import ConfigParser
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# The versions that were tested, on Python 3.11 and Linux; written by `make constraints`, never by hand.
# `pip install -c constraints.txt -e ".[dev]"` uses them. A constraint binds only where its package is
# needed, so the nvidia-*, cuda-* and triton lines are idle on macOS. A line with a python_full_version
# names a release that dropped older Pythons: on those, pip picks the newest that settings.ini allows.
"""


def settings() -> list[str]:
    """The requirements that settings.ini names, those of the package first, then those of its development."""
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    about = config["DEFAULT"]
    return (about["requirements"] + " " + about["dev_requirements"]).split()


def needed(requirements: list[str]) -> Iterator[metadata.Distribution]:
    """Every installed distribution that the requirements reach."""
    todo, seen = [Requirement(text) for text in requirements], set()
    while todo:
        requirement = todo.pop()
        key = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if key in seen:
            continue
        seen.add(key)
        distribution = metadata.distribution(requirement.name)
        yield distribution
        for text in distribution.requires or []:
            child = Requirement(text)
            extras = requirement.extras or {""}
            if not child.marker or any(child.marker.evaluate({"extra": extra}) for extra in extras):
                todo.append(child)


def line(distribution: metadata.Distribution) -> str:
    """One pin, marked where the oldest Python that we support cannot have it."""
    pin = f"{distribution.metadata['Name']}=={distribution.version}"
    oldest = [Version(s.version) for s in SpecifierSet(distribution.metadata["Requires-Python"] or "")
              if s.operator == ">=" and Version(s.version) > Version("3.10")]
    return f'{pin} ; python_full_version >= "{max(oldest)}"' if oldest else pin


if __name__ == "__main__":
    pins = {canonicalize_name(d.metadata["Name"]): line(d) for d in needed(settings())}
    text = HEAD + "".join(f"{pins[name]}\n" for name in sorted(pins))
    (ROOT / "constraints.txt").write_text(text, encoding="utf-8")
    print(f"constraints.txt: {len(pins)} packages")
