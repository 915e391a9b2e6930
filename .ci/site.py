"""The docs site: `site.py pages` makes its pages in _proc/, `site.py` also has Quarto render them to _docs/.

nbdev makes the pages from the notebooks. They then get what nbdev leaves out: a text for each picture (from the cell's
`#| fig-alt:`, or the one given to `Report.figure`), the files of reports/, links that lead somewhere on the site, and
links where prose names a notebook. `.ci/pages.py` adds the pages that no notebook is. A site with a dead link, a
picture without a text or a player without a name is an error.
"""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
PAGES, SITE = ROOT / "_proc", ROOT / "_docs"
REPORTS = ("figures", "audio", "tables", "gallery", "index.html")  # what the site takes of reports/, of these files:
ADDED = {"playground/index.html"}  # pages that come to the site after Quarto
SHOWN = {".csv", ".flac", ".html", ".ogg", ".png", ".svg", ".webp"}
CODE = re.compile(r"(^```.*?^```[^\n]*$|`[^`\n]+`)", re.M | re.S)
LINK = re.compile(r"(\]\(|(?:src|href)=\")([^)\"\s]+)")
LINKED_CODE = re.compile(r"\[(`[^`]+`)\]\([^)]*\)")
DEFAULT_EXP = re.compile(r"#\| *default_exp ([\w.]+)")
FIGURE = re.compile(r"report\.figure\(\s*\"([\w-]+)\"")
NO_CONSTRUCTOR = re.compile(r"def (\w+)\(\n    \*args, \*\*kwargs\n\):")


def joined(text: str | list[str]) -> str:
    """A notebook's text, which may be stored as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def on_site(path: Path) -> bool:
    """Whether the site takes a file of the repository, given from its root."""
    return path.parts[0] == "reports" and path.parts[1] in REPORTS and path.suffix in SHOWN


def seen_from(page: str, place: str) -> str:
    """A place on the site as a link of a page; both are given from the site's root."""
    return os.path.relpath(place, os.path.dirname(page) or ".")


def target(link: str, page: str, blob: str) -> str:
    """Where a notebook's link leads on the site: to a page, to a file that it takes, or to the repository."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or not parts.path:
        return link
    there = Path(os.path.normpath((ROOT / "nbs" / page).parent / unquote(parts.path)))
    if not there.exists() or not there.is_relative_to(ROOT):
        sys.exit(f"nbs/{page}.ipynb links to {link}, where nothing is")
    if there.is_relative_to(ROOT / "nbs") and there.suffix == ".ipynb":
        return link
    inside = there.relative_to(ROOT)
    if not on_site(inside):
        return f"{blob}/{inside.as_posix()}"
    return parts._replace(path=seen_from(page, inside.as_posix())).geturl()


def with_links(text: str, page: str, names: set[str], blob: str) -> str:
    """Markdown with links that hold on the site, and with a link for each notebook that it names."""
    bare = re.compile(rf"(?<![\w\[/#])(?<!\]\()({'|'.join(sorted(names))})(?![\w\]/]|\.ipynb)")
    parts = CODE.split(text)
    for number, part in enumerate(parts):
        if number % 2 == 0:
            part = LINK.sub(lambda found: found[1] + target(found[2], page, blob), part)
            parts[number] = bare.sub(lambda found: f"[{found[1]}]({seen_from(page, found[1])}.ipynb)", part)
        elif (name := part.strip("`").removesuffix(".ipynb")) in names and not parts[number - 1].endswith("["):
            parts[number] = f"[{part}]({seen_from(page, name)}.ipynb)"
    return "".join(parts)


def with_fields(entry: str, module: Path) -> str:
    """A library entry without links inside of its code; a class without constructor shows its fields, not `*args`."""
    parts = CODE.split(entry)
    entry = "".join(LINKED_CODE.sub(r"\1", part) if part.startswith("```") else part for part in parts)
    name = NO_CONSTRUCTOR.search(entry)
    if not name:
        return entry
    source = module.read_text(encoding="utf-8")
    found = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name[1]]
    if not found:
        return entry
    head = f"class {name[1]}({', '.join(ast.unparse(base) for base in found[0].bases)}):"
    lines = source.splitlines()
    fields = ["\n".join(lines[item.lineno - 1 : item.end_lineno]) for item in found[0].body
              if isinstance(item, ast.AnnAssign)]
    return entry.replace(name[0], "\n".join([head, *fields]))


def pictures(cell: dict) -> int:
    """How many pictures a code cell shows."""
    kinds = [kind for output in cell["outputs"] for kind in output.get("data", {})]
    return sum(kind.startswith("image/") for kind in kinds)


def with_text(cell: dict, page: str, texts: dict[str, str]) -> None:
    """Give a cell's pictures what a reader hears who cannot see them."""
    source = joined(cell["source"])
    if not pictures(cell) or re.search(r"^#\| fig-alt: *\S", source, re.M):
        return
    figure = FIGURE.search(source)
    text = texts.get(f"figures/{figure[1]}.png", "") if figure else ""
    if not text:
        sys.exit(f"nbs/{page}.ipynb, cell {cell['id']} shows a picture: say what is to be seen, in a first line "
                 "`#| fig-alt: \"...\"`")
    cell["source"] = f"#| fig-alt: {json.dumps(text, ensure_ascii=False)}\n{source}"


def finish_page(name: str, names: set[str], texts: dict[str, str], blob: str) -> None:
    """Add to a page, given from the site's root without suffix, what nbdev leaves out."""
    path = PAGES / f"{name}.ipynb"
    page = json.loads(path.read_text(encoding="utf-8"))
    others = names - {name}
    exported = DEFAULT_EXP.search((ROOT / f"nbs/{name}.ipynb").read_text(encoding="utf-8"))
    module = ROOT / f"clipsynth/{exported[1].replace('.', '/') if exported else '__init__'}.py"
    for cell in page["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = with_links(joined(cell["source"]), name, others, blob)
        if cell["cell_type"] == "code":
            for output in cell["outputs"]:
                if "text/markdown" in output.get("data", {}):
                    text = with_fields(joined(output["data"]["text/markdown"]), module)
                    output["data"]["text/markdown"] = with_links(text, name, others, blob)
            with_text(cell, name, texts)
    path.write_text(json.dumps(page, ensure_ascii=False), encoding="utf-8")


def copy_reports(folder: Path) -> None:
    """Give a folder the files of reports/ that the site takes."""
    for source in sorted((ROOT / "reports").rglob("*")):
        inside = source.relative_to(ROOT)
        if source.is_file() and on_site(inside):
            (folder / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, folder / inside)


def notebooks(folder: Path) -> set[str]:
    """The notebooks below a folder, from there, without suffix."""
    return {path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("[!._]*.ipynb")}


def make_pages() -> None:
    """Make what Quarto reads."""
    from nbdev.config import get_config
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    from clipsynth.base.report import provenance

    sys.path.insert(0, str(ROOT / ".ci"))
    from pages import cards, reproduce

    os.chdir(ROOT)
    refresh_quarto_yml()
    proc_nbs("nbs", n_workers=2, force=True)
    names, made = notebooks(ROOT / "nbs"), notebooks(PAGES)
    missing = names - made
    if missing:
        sys.exit(f"nbdev made no page of {', '.join(sorted(missing))}: its error stands above")
    texts = {name: entry["alt"] for name, entry in provenance(ROOT / "reports").items() if "alt" in entry}
    config = get_config()
    for name in names:
        finish_page(name, names - {"index"}, texts, f"{config.git_url}/blob/{config.branch}")
    copy_reports(PAGES)
    for place, text in {"reproduce.qmd": reproduce(ROOT, config.git_url), **cards(ROOT)}.items():
        (PAGES / place).parent.mkdir(exist_ok=True)
        (PAGES / place).write_text(text, encoding="utf-8")


class Reader(HTMLParser):
    """Collects the links of a page, where they can lead inside of it, and what a screen reader is told nothing of."""

    def __init__(self, text: str):
        super().__init__()
        self.silent: list[str] = []
        self.unnamed: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        if tag == "img" and not about.get("alt"):
            self.silent.append(about.get("src") or "")
        named = any(map(about.get, ("aria-label", "aria-labelledby", "title")))
        if tag in ("audio", "video") and "controls" in about and not named:
            self.unnamed.append(about.get("src") or "")
        self.ids |= {place for name in ("id", "name") if (place := about.get(name))}
        self.links += [link for name in ("href", "src") if (link := about.get(name))]


def faults(site: Path) -> list[str]:
    """On all pages of a built site: pictures without a text, players without a name, links that lead nowhere."""
    pages = {path: Reader(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    found = []
    for page, read in pages.items():
        name = page.relative_to(site).as_posix()
        found += [f"{name}: no text for the picture {source[:60]}" for source in read.silent]
        found += [f"{name}: no name for the player {source[:60]}".rstrip() for source in read.unnamed]
        for link in read.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            there = Path(os.path.normpath(page.parent / unquote(parts.path))) if parts.path else page
            part = unquote(parts.fragment)
            other = pages.get(there / "index.html" if there.is_dir() else there)
            if not there.exists():
                found.append(f"{name}: nothing at {link}")
            elif part and other and part not in other.ids and not part.startswith(("quarto-", "/")):
                found.append(f"{name}: no such part at {link}")
    return list(dict.fromkeys(found))


def add_playground() -> None:
    """The page that makes sounds without Python."""
    from clipsynth.base.process import UserError
    from clipsynth.engine.browser_page import write_page

    try:
        write_page(SITE / "playground")
    except UserError as error:
        sys.exit(f"no playground: {error}")


def render() -> None:
    """Have Quarto make the site of the pages, and tell what is wrong with it."""
    status = subprocess.run(["quarto", "render", "--no-cache"], cwd=PAGES).returncode
    if status:
        sys.exit(status)
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.move(PAGES / "_docs", SITE)
    copy_reports(SITE)
    add_playground()
    for fault in faults(SITE):
        print(fault, file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:] != ["pages"] and not shutil.which("quarto"):
        sys.exit("make docs needs Quarto 1.7: take it from https://quarto.org/docs/download, or with all else by "
                 "`conda env create -f environment.yml`")
    make_pages()
    if sys.argv[1:] != ["pages"]:
        render()
        sys.exit(bool(faults(SITE)))
