"""Packaging: everything it says comes from settings.ini, the one place where metadata lives."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
about = config["DEFAULT"]
readme = ROOT / "README.md"

# What a wheel carries of data/: the paper's tables and what `clipsynth synth` and `clipsynth eval` need by default.
CARRIED = ("paper/*.csv", "weights/miniclip.*", "weights/magnitude.*", "weights/mini-*/clipsynth.*",
           "weights/mini-*/bridges.*", "weights/mini-*/audio-net.*", "weights/mini-*/mel-net.*",
           "records/mini-*/real-test.*", "records/mini-*/manifest.*", "records/mini-*/second-opinion.*")
NOTEBOOKS = ("07_play",)  # that run from a wheel, too


class BuildWithData(build_py):
    """The library with some of data/ and nbs/ inside; an editable install reads the checkout's."""

    def run(self) -> None:
        super().run()
        if getattr(self, "editable_mode", False):
            return
        carried = {path: path.relative_to(ROOT / "data")
                   for pattern in CARRIED for path in sorted((ROOT / "data").glob(pattern))}
        carried |= {ROOT / f"nbs/{name}.ipynb": Path(f"nbs/{name}.ipynb") for name in NOTEBOOKS}
        for path, place in carried.items():
            target = Path(self.build_lib, about["lib_name"], "_data", place)
            self.mkpath(str(target.parent))
            self.copy_file(str(path), str(target))


setup(
    cmdclass={"build_py": BuildWithData},
    name=about["lib_name"],
    version=about["version"],
    description=about["description"],
    long_description=readme.read_text(encoding="utf-8") if readme.exists() else about["description"],
    long_description_content_type="text/markdown",
    author=about["author"],
    author_email=about["author_email"],
    url=about["git_url"],
    license="Apache-2.0",
    keywords=about["keywords"].split(),
    packages=find_packages(include=["clipsynth", "clipsynth.*"]),
    package_data={about["lib_name"]: ["results/page/*", "results/play_page/*", "listen/static/*", "engine/browser/*"]},
    python_requires=f">={about['min_python']}",
    install_requires=about["requirements"].split() + about["pip_requirements"].split(),
    extras_require={name: about[f"{name}_requirements"].split()
                    for name in ("dev", "download", "export", "cluster", "outside", "judges", "listen", "play")},
    entry_points={
        "console_scripts": about["console_scripts"].split(),
        "nbdev": [f"{about['lib_name']}={about['lib_name']}._modidx:d"],
    },
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
    ],
    zip_safe=False,
)
