"""Packaging: everything it says comes from settings.ini, the one place where metadata lives."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
config = ConfigParser(delimiters=["="])
config.read(ROOT / "settings.ini", encoding="utf-8")
about = config["DEFAULT"]
readme = ROOT / "README.md"

setup(
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
    python_requires=f">={about['min_python']}",
    install_requires=about["requirements"].split() + about["pip_requirements"].split(),
    extras_require={name: about[f"{name}_requirements"].split()
                    for name in ("dev", "download", "export", "cluster", "outside")},
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
