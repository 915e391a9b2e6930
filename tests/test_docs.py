"""The docs site: its pages are made by nbdev and .ci/site.py without Quarto, and the site itself where Quarto is."""
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from conftest import BIN, ROOT, RUN_NOTEBOOKS, copy_of_checkout, files, run
from nbdev.doclinks import _nbpath2html

NOTEBOOKS = sorted(path.relative_to(ROOT / "nbs") for path in (ROOT / "nbs").rglob("[!._]*.ipynb"))
LINK = re.compile(r"(?:\]\(|(?:src|href)=\")([^)\"\s]+)")
BLOB = "https://github.com/clipsynth/clipsynth/blob/main/"
COLAB = "https://colab.research.google.com/github/clipsynth/clipsynth/blob/main/"
ON_SITE = "https://clipsynth.github.io/clipsynth/"


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What Quarto reads, made without it."""
    copy = copy_of_checkout(tmp_path_factory.mktemp("docs") / "a copy")
    run(BIN / "python", ".ci/site.py", "pages", cwd=copy, PYTHONPATH=copy)
    return copy / "_proc"


def script(name: str) -> ModuleType:
    """A script of .ci/ as a module."""
    about = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / f".ci/{name}.py")
    assert about and about.loader
    module = importlib.util.module_from_spec(about)
    about.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site() -> ModuleType:
    return script("site")


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


def headings(page: Path) -> set[str]:
    """Where links can lead inside of a page: its headings as pandoc names them, and what it names itself."""
    if page.suffix == ".ipynb":
        texts = ["".join(cell["source"]) for cell in cells(page) if cell["cell_type"] == "markdown"]
    else:
        texts = [page.read_text(encoding="utf-8")]
    prose = re.sub(r"^```.*?^```", "", "\n".join(texts), flags=re.M | re.S)
    words = [re.sub(r"[^\w\s.-]", "", line.lower()).strip() for line in re.findall(r"^#+ (.+)$", prose, re.M)]
    named = set(re.findall(r"\{#([\w-]+)", prose))
    return named | {re.sub(r"^[^a-z]+", "", re.sub(r"\s", "-", text)) for text in words}


def dead(text: str, page: Path) -> list[str]:
    """The links of a page's text that lead nowhere; links into the repository and to Colab count too."""
    found = []
    for link in LINK.findall(text):
        base = next((base for base in (BLOB, COLAB) if link.startswith(base)), "")
        parts = urlsplit(link.removeprefix(base))
        if parts.scheme:
            continue
        there = (ROOT if base else page.parent) / unquote(parts.path) if parts.path else page
        prose = there.suffix in (".ipynb", ".md", ".qmd")
        if not there.exists() or (prose and parts.fragment and unquote(parts.fragment) not in headings(there)):
            found.append(link)
    return found


def missing(text: str, pages: Path, site: ModuleType) -> list[str]:
    """The links to pages of the published site that are not among its pages."""
    made = {_nbpath2html(name).as_posix() for name in notebooks(pages)} | site.ADDED
    made |= {path.relative_to(pages).with_suffix(".html").as_posix() for path in pages.rglob("*.qmd")}
    made |= {path.relative_to(pages).as_posix() for path in (pages / "reports").rglob("*.*")}
    links = [link.removeprefix(ON_SITE) for link in LINK.findall(text) if link.startswith(ON_SITE)]
    return [link for link in links if urlsplit(link).path not in made]


def test_page_names_are_unique() -> None:
    """nbdev drops the number of a notebook: two that differ in nothing else would be one page, and Quarto stops."""
    names = [_nbpath2html(path).as_posix() for path in NOTEBOOKS]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)


def test_pages_are_processed_without_quarto(pages: Path) -> None:
    assert notebooks(pages) == NOTEBOOKS
    for name in ("_quarto.yml", "nbdev.yml", "sidebar.yml", "styles.css", "favicon.svg"):
        assert (pages / name).read_text() == (ROOT / "nbs" / name).read_text(), f"nbdev writes another {name}"
    assert not list(pages.rglob("*.py")) and len(list((pages / "cards").glob("*.qmd"))) > 8
    assert any("log_mel" in json.dumps(cell.get("outputs", [])) for cell in cells(pages / "model/audio.ipynb"))


def test_every_picture_has_a_text_and_every_player_a_name(pages: Path, site: ModuleType) -> None:
    shown = players = 0
    for page in notebooks(pages):
        for cell in cells(pages / page):
            where = f"{page}, cell {cell.get('id')}"
            html = ["".join(o.get("data", {}).get("text/html", "")) for o in cell.get("outputs", [])]
            assert not re.search(r"!\[\s*\]\(", "".join(markdown(cell))), where
            read = [site.Reader(text) for text in markdown(cell) + html]
            assert not any(one.silent or one.unnamed for one in read), where
            players += sum(text.count("<audio") for text in html)
            elsewhere = re.search(r"<(audio|source)[^>]+src=[\"'](?!data:audio/)", "".join(html))
            assert not elsewhere, f"{where}: the sound of a player is not on the site"
            if cell["cell_type"] == "code" and (count := site.pictures(cell)):
                text = re.findall(r"^#\| fig-alt: (.+)$", "".join(cell["source"]), re.M)
                assert len(text) == 1 and len(json.loads(text[0])) > 20, where
                shown += count
    assert shown > 90 and players > 30
    assert site.faults(pages / "reports") == []


def test_every_link_of_the_site_leads_somewhere(pages: Path, site: ModuleType) -> None:
    broken = [f"{page}: {link}" for page in notebooks(pages) for cell in cells(pages / page)
              for text in markdown(cell) for link in dead(text, pages / page)]
    broken += [f"{page.name}: {link}" for page in pages.rglob("*.qmd")
               for link in dead(page.read_text(encoding="utf-8"), page)]
    assert broken == []
    told = [text for cell in cells(pages / "index.ipynb") for text in markdown(cell)]
    assert missing("".join(told), pages, site) == [] and sum(text.count(ON_SITE) for text in told) >= 3
    front = json.dumps(cells(pages / "index.ipynb"))
    assert "](reports/figures/examples.png)" in front and "](reports/index.html)" in front
    assert f"]({BLOB}CONTRIBUTING.md)" in front and f"]({BLOB}reports/README.md)" in front
    image = re.findall(r"^  image: (\S+)$", (pages / "_quarto.yml").read_text(), re.M)
    assert len(image) == 1 and (pages / image[0]).exists()


@pytest.mark.parametrize("name", [str(path) for path in files() if path.suffix == ".md"])
def test_every_link_of_the_repository_leads_somewhere(name: str) -> None:
    text = re.sub(r"^```.*?^```|`[^`\n]+`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.M | re.S)
    assert dead(text, ROOT / name) == []


def test_bars_lead_to_pages(pages: Path, site: ModuleType) -> None:
    """The bars above and beside every page; what comes after Quarto is known by name."""
    website = yaml.safe_load((pages / "_quarto.yml").read_text())["website"]
    items = [item for side in ("left", "right") for item in website["navbar"][side]]
    above = [item["href"] for item in items]
    assert {"playground/index.html", "reports/index.html", "reproduce.qmd", "cards/index.qmd"} <= set(above)
    assert all(item.get("text") or item.get("aria-label") for item in items)

    def entries(items: list | str) -> list[str]:
        if isinstance(items, str):
            return [path.relative_to(pages).as_posix() for path in pages.glob(items)] or [items]
        return [entry for item in items for entry in ([item] if isinstance(item, str) else entries(item["contents"]))]

    beside = entries(yaml.safe_load((pages / "sidebar.yml").read_text())["website"]["sidebar"]["contents"])
    inside = [link for link in above + beside if not urlsplit(link).scheme]
    assert [link for link in inside if not (pages / link).exists() and link not in site.ADDED] == []
    assert {path.relative_to(pages).as_posix() for path in pages.rglob("*.qmd")} <= set(beside), "a page is in no bar"
    chapters = [name for name in beside if re.match(r"\d\d_", name)]
    front = re.findall(r"^\| \[\d\w+\]\((\d\w+\.ipynb)\)", "".join(
        "".join(cell["source"]) for cell in cells(ROOT / "nbs/index.ipynb")), re.M)
    assert [name for name in chapters if name in front] == front, "the cover lists the chapters in the site's order"


def test_reproduce_tells_of_every_table_and_figure(pages: Path) -> None:
    """One line for each, with a command that papermill understands, minutes, a commit where there is a history."""
    lines = (pages / "reproduce.qmd").read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if line.startswith("| ") and "](reports/" in line]
    listed = {match[1] for line in lines if (match := re.search(r"\]\(reports/([^)]+)\)", line))}
    stamps = [json.loads(path.read_text()) for path in (ROOT / "reports/provenance").rglob("*.json")]
    assert listed == {name for stamp in stamps for name in stamp["files"] if re.match(r"tables/.*\.csv|figures/", name)}
    asked = {match[1] for line in lines if (match := re.search(r"`papermill nbs/(\S+)\.ipynb reports/runs/", line))}
    assert asked <= set(RUN_NOTEBOOKS) and all(line.count(" | ") == 5 for line in lines)
    assert {line.split(" | ")[0] for line in lines} == {"| –", "| Table 1", "| Table 2"}
    unknown = [line.split(" | ")[1] for line in lines if not re.fullmatch(r"\d+( \(\d+\))?", line.split(" | ")[4])]
    assert unknown == [], "no minutes of these are kept: run `make reports`"


def test_commands_name_what_differs(tmp_path: Path) -> None:
    pages = script("pages")
    stamp = {"notebook": "results/zoo", "profile": "mini", "parameters": {"dataset": ""}}
    assert pages.command(ROOT, stamp) == "papermill nbs/results/zoo.ipynb reports/runs/zoo.ipynb"
    other = {**stamp, "profile": "paper", "parameters": {"dataset": "music", "no such": 1, "settings": "a=1 b=2"}}
    assert pages.command(ROOT, other).endswith('zoo.ipynb -p profile paper -p dataset music -p settings "a=1 b=2"')
    assert pages.told("One [a|b]. Two.") == "One \\[a\\|b]."
    assert pages.card("---\na: b\n---\n\n# T\n\ntext\n", "x")[0] == "T"
    with pytest.raises(SystemExit, match="no heading"):
        pages.card("text", "x")


def test_commits_are_those_of_a_whole_history(tmp_path: Path) -> None:
    pages, whole, shallow = script("pages"), tmp_path / "whole", tmp_path / "shallow"
    whole.mkdir()

    def git(*words: object, cwd: Path = whole) -> str:
        names = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(["git", *names, *map(str, words)], cwd=cwd, check=True, capture_output=True,
                              text=True).stdout.strip()

    git("init", "--quiet")
    for name in ("one", "two"):
        (whole / name).write_text(name)
        git("add", name)
        git("commit", "--quiet", "-m", name)
    assert pages.commit_of(whole, "one") == git("rev-parse", "HEAD~1") != pages.commit_of(whole, "two")
    git("clone", "--quiet", "--depth", 1, f"file://{whole}", shallow)
    assert pages.commit_of(shallow, "one") == "" and pages.commit_of(tmp_path, "one") == ""


def test_minutes_change_when_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = script("notebooks")
    monkeypatch.setattr(runs, "MINUTES", tmp_path / "minutes.json")
    kept = []
    for seconds, anew in ((50, False), (400, False), (170, True)):
        runs.keep_minutes("zoo", seconds, False, anew)
        kept.append(json.loads(runs.MINUTES.read_text())["from records"]["zoo"])
    assert kept == [1, 1, 3]
    runs.keep_minutes("zoo", 3_600, True)
    assert json.loads(runs.MINUTES.read_text())["recomputed"] == {"zoo": 60}


def test_colab_installs_and_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tour's first cell, with and without Colab; what it clones is this repository, and the badges lead to it."""
    first = next(cell for cell in cells(ROOT / "nbs/00_a_tour.ipynb") if cell["cell_type"] == "code")
    source, asked = "".join(first["source"]), list[list[str]]()
    assert source.startswith("#| hide\n") and BLOB.startswith(re.findall(r'"(https://github\S+)"', source)[0])
    monkeypatch.setattr(subprocess, "run", lambda command, check: asked.append(command))
    monkeypatch.setattr(os, "chdir", lambda _: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(source, {})  # noqa: S102
    assert asked == []
    monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
    exec(source, {})  # noqa: S102
    assert asked == [], "clipsynth is there"
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    exec(source, {})  # noqa: S102
    assert [command[-1] for command in asked] == ["/content/clipsynth"] * 2 and sys.path[0] == "/content/clipsynth"
    for name in ("nbs/00_a_tour.ipynb", "nbs/index.ipynb", "README.md"):
        assert f"{COLAB}nbs/00_a_tour.ipynb" in (ROOT / name).read_text(encoding="utf-8"), name


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
    (tmp_path / "there.html").write_text(
        "<img src='data:x' alt=''><img src='data:y' alt='a wave'><h2 id='part'>b</h2><audio src='data:0'></audio>"
        "<audio controls src='data:z'></audio><audio controls aria-label='a' src='data:1'></audio>")
    (tmp_path / "a.html").write_text("<a href='there.html#part'></a> <a href='gone.html'></a> <a href='#here'></a>"
                                     "<a href='there.html#gone'></a> <h1 id='top'></h1><a href='#top'></a>"
                                     "<a href='#'></a> <img src='no%20file.png' alt='x'> <a href='https://example.org/'></a>")
    assert site.faults(tmp_path) == [
        "a.html: nothing at gone.html", "a.html: no such part at #here", "a.html: no such part at there.html#gone",
        "a.html: nothing at no%20file.png", "there.html: no text for the picture data:x",
        "there.html: no name for the player data:z"]
    page = tmp_path / "page.md"
    page.write_text("# A title: 2 & *more*\n\n```\n# no heading\n```\n")
    assert headings(page) == {"a-title-2--more"}
    links = "[a](#a-title-2--more) [b](#gone) [c](page.md#gone) [d](gone.md) [e](https://example.org)"
    assert dead(links, page) == ["#gone", "page.md#gone", "gone.md"]
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


def test_without_quarto_one_line_says_where_to_get_it(tmp_path: Path) -> None:
    done = run(sys.executable, ".ci/site.py", check=False, PATH=str(tmp_path))
    assert done.returncode == 1 and done.stdout == "" and len(done.stderr.splitlines()) == 1
    assert "https://quarto.org" in done.stderr and "environment.yml" in done.stderr
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert ".ci/site.py" in makefile.split("\ndocs:")[1].split("\n\n")[0]


def test_workflow_publishes_the_site() -> None:
    """With the whole history, the Quarto of environment.yml, and no right that its job does not need."""
    flow = yaml.safe_load((ROOT / ".github/workflows/docs.yml").read_text())
    assert flow["permissions"] == {"contents": "read"} and "permissions" not in flow["jobs"]["build"]
    assert flow["jobs"]["deploy"]["permissions"] == {"pages": "write", "id-token": "write"}
    steps = {step.get("uses", "").partition("@")[0] or step.get("run"): step for step in flow["jobs"]["build"]["steps"]}
    assert steps["actions/checkout"]["with"]["fetch-depth"] == 0 and "make docs" in steps
    assert steps["quarto-dev/quarto-actions/setup"]["with"]["version"].startswith("1.7.")
    assert steps["actions/upload-pages-artifact"]["with"]["path"] == "_docs"


@pytest.mark.skipif(not shutil.which("quarto"), reason="Quarto is not installed")
def test_site_is_built(site: ModuleType, tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path / "copy")
    run(BIN / "python", ".ci/site.py", cwd=copy, PYTHONPATH=copy)
    assert (copy / "_docs/index.html").exists() and (copy / "_docs/diffusion.html").exists()
    assert (copy / "_docs/reports/index.html").exists()
    assert site.faults(copy / "_docs") == []
