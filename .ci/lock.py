"""Write requirements.lock: the versions of constraints.txt with the digests of their files, for this Python and system.

uv finds the files; kept are those that pip or uv would choose from here, so that the lock stays small. It names no
place to download from: that is up to whoever installs.
"""
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import tomllib
from constraints import settings
from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).resolve().parent.parent
HEAD = """\
# constraints.txt with each file's SHA-256, for CPython {python} on {system}; written by `make lock`, never by hand.
# uv venv --python {python} && uv pip sync requirements.lock && uv pip install --no-deps --no-build-isolation -e .
"""
UV = ["uv", "pip", "compile", "-", "--constraint", "constraints.txt", "--quiet",
      "--format", "pylock.toml", "--no-header", "--no-annotate", "--python", sys.executable]


def digests(package: dict) -> Iterator[str]:
    """The digests of the wheels that fit here; of the source where no wheel fits."""
    fit, here = [], set(sys_tags())
    for wheel in package.get("wheels", []):
        try:
            tags = parse_wheel_filename(wheel.get("name") or unquote(wheel["url"].rpartition("/")[2]))[3]
        except InvalidWheelFilename:
            continue
        fit += [wheel] if tags & here else []
    for file in fit or [package["sdist"]]:
        yield f"sha256:{file['hashes']['sha256']}"


def lock(packages: list[dict]) -> str:
    """The text of the lock file."""
    python, system = ".".join(platform.python_version_tuple()[:2]), f"{platform.system()} {platform.machine()}"
    lines = [HEAD.format(python=python, system=system)]
    for package in sorted(packages, key=lambda package: canonicalize_name(package["name"])):
        hashes = "".join(f" \\\n    --hash={digest}" for digest in sorted({*digests(package)}))
        lines.append(f"{package['name']}=={package['version']}{hashes}\n")
    return "".join(lines)


if __name__ == "__main__":
    if not shutil.which("uv"):
        sys.exit("make lock needs uv: pip install uv, in any environment on your PATH")
    done = subprocess.run(UV, cwd=ROOT, input="\n".join(settings()), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"uv cannot resolve the requirements: {done.stderr.strip()}")
    packages = [package for package in tomllib.loads(done.stdout)["packages"] if "version" in package]
    (ROOT / "requirements.lock").write_text(lock(packages), encoding="utf-8")
    print(f"requirements.lock: {len(packages)} packages")
