"""The docs site: its pages are made by nbdev and .ci/site.py without Quarto, and the site itself where Quarto is."""
import importlib.util
import json
import os
import re
import shutil
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
from conftest import BIN, ROOT, copy_of_checkout, files, run
from nbdev.doclinks import _nbpath2html

NOTEBOOKS = sorted(path.relative_to(ROOT / "nbs") for path in (ROOT / "nbs").rglob("[!._]*.ipynb"))
LINK = re.compile(r"(?:\]\(|(?:src|href)=\")([^)\"\s]+)")
BLOB = "https://github.com/clipsynth/clipsynth/blob/main/"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Quarto reads, made without it."""
    copy = copy_of_checkout(tmp_path_factory.mktemp("docs") / "a copy")
    run(BIN / "python", ".ci/site.py", "pages", cwd=copy, PYTHONPATH=copy)
    return copy / "_proc"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    """The script as a module."""
    about = importlib.util.spec_from_file_location("docs_site", ROOT / ".ci/site.py")
    assert about and about.loader
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


def cells(page: Path) -> list[dict]:
    return json.loads(page.read_text(encoding="utf-8"))["cells"]


def notebooks(pages: Path) -> list[Path]:
    """All pages, from the site's root."""
    return sorted(path.relative_to(pages) for path in pages.rglob("*.ipynb"))


def markdown(cell: dict) -> list[str]:
    """The Markdown of a cell, or of its outputs, without code."""
    shown = [o["data"]["text/markdown"] for o in cell.get("outputs", []) if "text/markdown" in o.get("data", {})]
    texts = [cell["source"]] if cell["cell_type"] == "markdown" else shown
    return [re.sub(r"^```.*?^```|`[^`\n]+`", "", "".join(text), flags=re.M | re.S) for text in texts]


def dead(text: str, folder: Path) -> list[str]:
    """The links of a text that lead to no file, seen from a folder; links into the repository count too."""
    found = []
    for link in LINK.findall(text):
        inside, parts = link.startswith(BLOB), urlsplit(link.removeprefix(BLOB))
        if not parts.scheme and not ((ROOT if inside else folder) / unquote(parts.path)).exists():
            found.append(link)
    return found


def test_page_names_are_unique() -> None:
    """nbdev drops the number of a notebook: two that differ in nothing else would be one page, and Quarto stops."""
    names = [_nbpath2html(path).as_posix() for path in NOTEBOOKS]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)


def test_pages_are_processed_without_quarto(pages: Path) -> None:
    assert notebooks(pages) == NOTEBOOKS
    for name in ("_quarto.yml", "nbdev.yml", "sidebar.yml", "styles.css", "favicon.svg"):
        assert (pages / name).read_text() == (ROOT / "nbs" / name).read_text(), f"nbdev writes another {name}"
    assert any("log_mel" in json.dumps(cell.get("outputs", [])) for cell in cells(pages / "model/audio.ipynb"))


def test_every_picture_has_a_text(pages: Path, site: ModuleType) -> None:
    shown = 0
    for page in notebooks(pages):
        for cell in cells(pages / page):
            where = f"{page}, cell {cell.get('id')}"
            html = ["".join(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", [])]
            assert not re.search(r"!\[\s*\]\(", "".join(markdown(cell))), where
            assert not any(site.Reader(text).silent for text in markdown(cell) + html), where
            if cell["cell_type"] == "code" and (count := site.pictures(cell)):
                text = re.findall(r"^#\| fig-alt: (.+)$", "".join(cell["source"]), re.M)
                assert len(text) == 1 and len(json.loads(text[0])) > 20, where
                shown += count
    assert shown > 90
    assert site.faults(pages / "reports") == []


def test_every_link_of_the_site_leads_somewhere(pages: Path) -> None:
    broken = [f"{page}: {link}" for page in notebooks(pages) for cell in cells(pages / page)
              for text in markdown(cell) for link in dead(text, (pages / page).parent)]
    assert broken == []
    front = json.dumps(cells(pages / "index.ipynb"))
    assert "](reports/figures/examples.png)" in front and "](reports/index.html)" in front
    assert f"]({BLOB}CONTRIBUTING.md)" in front and f"]({BLOB}reports/README.md)" in front
    image = re.findall(r"^  image: (\S+)$", (pages / "_quarto.yml").read_text(), re.M)
    assert len(image) == 1 and (pages / image[0]).exists()


@pytest.mark.parametrize("name", [str(path) for path in files() if path.suffix == ".md"])
def test_every_link_of_the_repository_leads_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert dead(text, (ROOT / name).parent) == []


def test_prose_that_names_a_notebook_links_to_it(pages: Path) -> None:
    names = "|".join(str(path.with_suffix("")) for path in NOTEBOOKS if path.stem != "index")
    alone = re.compile(rf"(?<!\[)`({names})`")
    for page in notebooks(pages):
        for cell in cells(pages / page):
            named = alone.findall("".join(cell["source"])) if cell["cell_type"] == "markdown" else []
            assert set(named) <= {str(page.with_suffix(""))}, f"{page}, cell {cell.get('id')}"
    prose = json.dumps(cells(pages / "model/export.ipynb"))
    assert "([model/samplers](samplers.ipynb))" in prose, "without code marks too"


def test_library_entries_can_be_read(pages: Path) -> None:
    for page in notebooks(pages):
        for cell in cells(pages / page):
            for output in cell.get("outputs", []):
                entry = "".join(output.get("data", {}).get("text/markdown", ""))
                for code in re.findall(r"^```python.*?^```", entry, re.M | re.S):
                    assert "*args, **kwargs\n" not in code and "](http" not in code, code
    scores = json.dumps(cells(pages / "results/scores.ipynb"))
    assert "class Scores(NamedTuple):\\n    fad: Estimate" in scores


def test_what_is_wrong_with_a_page_is_told(site: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "there.html").write_text("<img src='data:x' alt=''><img src='data:y' alt='a wave'>")
    (tmp_path / "a.html").write_text("<a href='there.html#part'></a> <a href='gone.html'></a> <a href='#here'></a>"
                                     "<img src='no%20file.png' alt='x'> <a href='https://example.org/'></a>")
    assert site.faults(tmp_path) == ["a.html: nothing at gone.html", "a.html: nothing at no%20file.png",
                                     "there.html: no text for the picture data:x"]
    for link in ("../gone.md", "gone.ipynb", "../../etc/passwd"):
        with pytest.raises(SystemExit, match="nothing is"):
            site.target(link, "index", BLOB[:-1])
    picture = {"id": "1", "source": "plt.plot()", "outputs": [{"data": {"image/png": ""}}]}
    with pytest.raises(SystemExit, match="fig-alt"):
        site.with_text(picture, "05_gap", {})
    reported = {**picture, "source": 'report.figure("gap", figure, "A gap.")'}
    site.with_text(reported, "05_gap", {"figures/gap.png": 'Two "clouds".'})
    assert reported["source"].startswith('#| fig-alt: "Two \\"clouds\\"."\n')


def test_what_quarto_made_becomes_the_site(
        site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a stand-in for Quarto: its site is moved, completed and looked through; where it fails, so does ours."""
    quarto, pages, made = tmp_path / "quarto", tmp_path / "_proc", tmp_path / "_docs"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(site, "PAGES", pages)
    monkeypatch.setattr(site, "SITE", made)
    monkeypatch.setattr(site, "add_playground", lambda: None)  # tests/test_browser_page.py writes one
    for folder in (pages, made):
        folder.mkdir()
    (made / "old.html").touch()
    quarto.write_text("#!/bin/sh\nexit 3\n")
    quarto.chmod(0o755)
    with pytest.raises(SystemExit) as ended:
        site.render()
    assert ended.value.code == 3 and (made / "old.html").exists()
    page = "<a href='reports/index.html'></a><img src='reports/figures/examples.png'>"
    quarto.write_text(f'#!/bin/sh\nmkdir _docs && echo "{page}" > _docs/index.html\n')
    site.render()
    assert not (made / "old.html").exists() and (made / "reports/audio").is_dir()
    said = capsys.readouterr().err.splitlines()
    assert said == ["index.html: no text for the picture reports/figures/examples.png"]


@pytest.mark.skipif(not shutil.which("quarto"), reason="Quarto is not installed")
def test_site_is_built(site: ModuleType, tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path / "copy")
    run(BIN / "python", ".ci/site.py", cwd=copy, PYTHONPATH=copy)
    assert (copy / "_docs/index.html").exists() and (copy / "_docs/diffusion.html").exists()
    assert (copy / "_docs/reports/index.html").exists()
    assert site.faults(copy / "_docs") == []
