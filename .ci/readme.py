"""README.md from nbs/index.ipynb, without Quarto: `readme.py` writes it, `readme.py --check` compares it.

Prose stays as it is; a code cell is shown unless `#| hide` or `#| echo: false` says otherwise; its Markdown and text
outputs follow. Links into the repository (`../reports/...`) lose their `../`. Pictures are links to files in reports/,
never outputs, so that GitHub, Jupyter and the docs all show the same file.
"""
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIRECTIVE = re.compile(r"^#\|\s*(.+?)\s*$\n?", re.M)


def joined(text: str | list[str]) -> str:
    """A notebook's text, which may be stored as a list of lines."""
    return text if isinstance(text, str) else "".join(text)


def output(entry: dict) -> str:
    """One output as Markdown."""
    if entry["output_type"] == "stream":
        return f"```\n{joined(entry['text']).rstrip()}\n```" if entry["name"] == "stdout" else ""
    if entry["output_type"] == "error":
        raise SystemExit(f"nbs/index.ipynb holds an error ({entry['ename']}): run it again")
    data = entry["data"]
    if "text/markdown" in data:
        return joined(data["text/markdown"]).strip()
    if any(kind.startswith("image/") for kind in data):
        raise SystemExit("nbs/index.ipynb shows a picture as an output: link to a file in ../reports/figures/ instead")
    return f"```\n{joined(data.get('text/plain', '')).rstrip()}\n```"


def cell(entry: dict) -> list[str]:
    """The Markdown blocks of one cell."""
    source = joined(entry["source"]).strip()
    if entry["cell_type"] != "code":
        return [source]
    directives = [text.replace(" ", "") for text in DIRECTIVE.findall(source)]
    if {"hide", "include:false"} & set(directives):
        return []
    code = DIRECTIVE.sub("", source).strip()
    blocks = [] if "echo:false" in directives or not code else [f"```python\n{code}\n```"]
    return blocks + ([] if "output:false" in directives else [output(o) for o in entry["outputs"]])


def readme(notebook: Path) -> str:
    """The whole README."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    blocks = ["<!-- Written by .ci/readme.py from nbs/index.ipynb: edit that notebook. -->"]
    blocks += [block for entry in cells for block in cell(entry) if block]
    text = "\n\n".join(blocks)
    text = re.sub(r"(\]\(|src=\"|href=\")\.\./", r"\1", text)
    return re.sub(r"\]\(([\w/]+\.ipynb)", r"](nbs/\1", text) + "\n"


if __name__ == "__main__":
    wanted, path = readme(ROOT / "nbs/index.ipynb"), ROOT / "README.md"
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    if "--check" in sys.argv and there != wanted:
        sys.exit("README.md is not what nbs/index.ipynb says: run `make readme`")
    if there != wanted:
        path.write_text(wanted, encoding="utf-8")
    print(f"README.md: {'unchanged' if there == wanted else 'written'}")
