"""The pages of the docs site that no notebook is: how to reproduce each table and figure, and the cards.

Nothing in them is typed: they come from the stamps in reports/provenance, the notebooks' parameters, the history of
git, the minutes that `.ci/notebooks.py reports` has kept, and what the weights say of themselves.
"""
import ast
import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINUTES = "bench/results/minutes.json"
PAPER = re.compile(r"(?:What the paper says of )?(Table \d)\b")
HEAD = "| in the paper | file | what | command | minutes | commit |\n|---|---|---|---|---|---|"


def page(title: str, about: str, body: str) -> str:
    """A page for Quarto; it has no source in the repository that a reader could edit."""
    head = {"title": title, "description": about}
    lines = [f"{name}: {json.dumps(text, ensure_ascii=False)}" for name, text in head.items()]
    return "\n".join(["---", *lines, "repo-actions: false", "---", "", body.rstrip(), ""])


def defaults(notebook: Path) -> dict[str, object]:
    """The parameters of a run notebook, as its tagged cell has them."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    found = {}
    for node in ast.parse("\n".join(tagged)).body:
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and isinstance(getattr(node, "value", None), ast.Constant):
            found[target.id] = node.value.value  # type: ignore[attr-defined]
    return found


def command(root: Path, stamp: dict) -> str:
    """What makes a notebook's files again: papermill with the parameters that are not the notebook's own."""
    name, own = stamp["notebook"], defaults(root / f"nbs/{stamp['notebook']}.ipynb")
    made = {"profile": stamp["profile"], **stamp["parameters"]}
    given = [f" -p {key} {json.dumps(value) if isinstance(value, str) and ' ' in value else value}"
             for key, value in made.items() if key in own and value != own[key]]
    return f"papermill nbs/{name}.ipynb reports/runs/{Path(name).name}.ipynb{''.join(given)}"


def commit_of(root: Path, path: str) -> str:
    """The commit that last changed a file; nothing where the history is not here, as in a shallow clone."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    if git("rev-parse", "--show-toplevel") != str(root) or git("rev-parse", "--is-shallow-repository") != "false":
        return ""
    return git("log", "-1", "--format=%H", "--", path)


def told(caption: str) -> str:
    """The first sentence of a caption, for a cell of a table."""
    sentence = re.split(r"(?<=[.?]) (?=[A-Z])", caption)[0]
    return sentence.replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;")


def reproduce(root: Path, url: str) -> str:
    """The page that says of each table and figure what makes it, how long that takes, and where it was made."""
    minutes = json.loads((root / MINUTES).read_text(encoding="utf-8"))
    paper, ours = list[str](), list[str]()
    for path in sorted((root / "reports/provenance").rglob("*.json")):
        stamp = json.loads(path.read_text(encoding="utf-8"))
        name, sha = stamp["notebook"], commit_of(root, path.relative_to(root).as_posix())
        took = minutes["from records"].get(name, "–")
        again = minutes.get("recomputed", {}).get(name)
        row = f"`{command(root, stamp)}` | {took}{f' ({again})' if again else ''}"
        row += f" | {f'[{sha[:7]}]({url}/commit/{sha})' if sha else '–'} |"
        for file, about in stamp["files"].items():
            if not re.fullmatch(r"tables/.*\.csv|figures/.*", file):
                continue
            number = PAPER.match(about["caption"])
            line = f"| {number[1] if number else '–'} | [{file}](reports/{file}) | {told(about['caption'])} | {row}"
            (paper if number else ours).append(line)
    text = [
        "`make reports` runs everything on this page in order. Each line has the command for its file alone, after "
        f"`make`, with `.venv/bin` on the path. Minutes are those of a run on {minutes['cores']} CPU cores, "
        "rounded up, with the records of `data/records`, and once the worlds are rendered; in brackets, where it was "
        "timed, with `-p recompute True`, which samples everything anew from the committed weights. The commit "
        "is the one in which the stamp of the file last changed (`reports/provenance`, "
        f"[what a stamp holds]({url}/blob/main/nbs/base/report.ipynb)).",
        "## Tables of the paper", "\n".join([HEAD, *paper]), "## Tables and figures of this companion",
        "\n".join([HEAD, *ours])]
    return page("Reproduce", "Of each table and figure: the command, the minutes, the commit, the file",
                "\n\n".join(text))


def card(text: str, about: str) -> tuple[str, str]:
    """Title and page of a card: the Hub's header is dropped, the first heading becomes the title."""
    text = re.sub(r"\A---\n.*?\n---\n+", "", text, flags=re.S)
    found = re.match(r"# (.+)\n+", text)
    if not found:
        raise SystemExit(f"a card has no heading: {text[:60]!r}")
    return found[1], page(found[1], about, text[found.end():])


def cards(root: Path) -> dict[str, str]:
    """The cards of all committed models and of the datasets, by their place on the site, and a page that lists them."""
    from clipsynth.base.profiles import profile
    from clipsynth.engine.cards import model_card
    from clipsynth.engine.train import TASKS

    chosen, found, listed = profile("mini"), dict[str, str](), list[str]()
    models = [name for name in TASKS if name.startswith("clipsynth")]
    there = [(dataset, model) for dataset in chosen.datasets for model in models
             if (root / f"data/weights/{dataset}/{model}.safetensors").exists()]
    every = [(f"{dataset}-{model}", model_card(dataset, model), "a model") for dataset, model in there]
    every += [(f"data-{path.stem}", path.read_text(encoding="utf-8"), "a dataset")
              for path in sorted((root / "reports/cards").glob("*.md"))]
    for name, text, kind in every:
        title, found[f"cards/{name}.qmd"] = card(text, f"The card of {kind}")
        listed.append(f"| [{title}]({name}.qmd) | {kind} |")
    found["cards/index.qmd"] = page("Cards", "Of each committed model and each dataset: what it is, and its limits",
                                    "\n".join(["| card | of |", "|---|---|", *listed]))
    return found
