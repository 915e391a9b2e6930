"""Run notebooks headless: `reports NAME...` copies to reports/runs/, `refresh [NAME...]` works in place.

How long a notebook of `reports` takes is kept in bench/results/minutes.json, for the site's page "Reproduce": where it
is not known yet, or with --minutes, so that a run on any other machine leaves the file as it is.
"""
import argparse
import base64
import json
import math
import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MINUTES = ROOT / "bench/results/minutes.json"


def surroundings() -> None:
    """The kernel of this Python, whatever stands under its name elsewhere; UTF-8 text; a home that can be written."""
    from clipsynth.base.process import set_surroundings

    set_surroundings()
    ours = str(Path(sys.prefix, "share/jupyter"))
    others = [path for path in os.environ.get("JUPYTER_PATH", "").split(os.pathsep) if path not in ("", ours)]
    os.environ.update(JUPYTER_PATH=os.pathsep.join([ours, *others]), PYTHONUTF8="1")


def execute(source: Path, target: Path, parameters: dict | None = None) -> str:
    """Run a notebook in a fresh kernel, its progress bars on our stderr; returns its error in one line, or nothing."""
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        execute_notebook(str(source), str(target), parameters, kernel_name="python3", cwd=str(ROOT / "nbs"),
                         start_timeout=600, progress_bar=False, stderr_file=sys.stderr,
                         extra_arguments=["--log-level=ERROR"])
    except PapermillExecutionError as error:
        return f"cell {error.cell_index}: {error.ename}: {error.evalue}".splitlines()[0]
    except DeadKernelError:
        return "its kernel died: was there enough memory?"
    return ""


def listed(sidebar: Path) -> list[str]:
    """The notebooks in the order of the sidebar, from `nbs/`."""
    return re.findall(r"^ *- (\S+\.ipynb)$", sidebar.read_text(encoding="utf-8"), re.M)


def light(data: dict) -> None:
    """The picture of an output in its own 64 colours: a clone is to stay light."""
    from clipsynth.base.report import small_png

    if "image/png" in data:
        data["image/png"] = base64.b64encode(small_png(base64.b64decode(data["image/png"]))).decode()


def keep_outputs(notebook: Path, executed: Path) -> bool:
    """Take the outputs of an executed copy, and nothing else of it; returns whether the notebook changed."""
    from nbdev.clean import clean_nb

    before = notebook.read_text(encoding="utf-8")
    content = json.loads(before)
    outputs = {cell["id"]: cell["outputs"] for cell in json.loads(executed.read_text(encoding="utf-8"))["cells"]
               if cell["cell_type"] == "code"}
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"] = outputs[cell["id"]]
            for output in cell["outputs"]:
                light(output.get("data", {}))
    clean_nb(content, allowed_cell_metadata_keys=["tags"])
    after = json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n"
    if after != before:
        notebook.write_text(after, encoding="utf-8")
    return after != before


def keep_minutes(name: str, seconds: float, recompute: bool, anew: bool = False) -> None:
    """Keep how long a notebook takes, in whole minutes, if it is not known yet or shall be measured anew."""
    kept = json.loads(MINUTES.read_text(encoding="utf-8")) if MINUTES.exists() else {}
    column = kept.setdefault("recomputed" if recompute else "from records", {})
    if name in column and not anew:
        return
    column[name], kept["cores"] = math.ceil(seconds / 60), os.cpu_count()
    MINUTES.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def reports(names: list[str], recompute: bool, minutes: bool) -> None:
    """Each notebook's executed copy goes to reports/runs/; the tables and figures it writes to reports/."""
    from papermill import inspect_notebook

    for number, name in enumerate(names, 1):
        source, target, began = ROOT / f"nbs/{name}.ipynb", ROOT / f"reports/runs/{name}.ipynb", time.monotonic()
        asked = {"recompute": True} if recompute and "recompute" in inspect_notebook(str(source)) else None
        print(f"[{number}/{len(names)}] {name}", flush=True)
        error = execute(source, target, asked)
        if error:
            sys.exit(f"nbs/{name}.ipynb stopped in {error} (its executed copy: {target.relative_to(ROOT)})")
        seconds = time.monotonic() - began
        keep_minutes(name, seconds, recompute, minutes)
        print(f"[{number}/{len(names)}] {name}: done in {seconds:.0f} s", flush=True)


def refresh(names: list[str]) -> None:
    """Run notebooks with their default parameters and keep the outputs in place."""
    os.environ["CLIPSYNTH_QUIET"] = "1"
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            executed = Path(folder) / "executed.ipynb"
            error = execute(ROOT / f"nbs/{name}.ipynb", executed)
            if error:
                sys.exit(f"nbs/{name}.ipynb stopped in {error}; it was left as it is")
            changed = keep_outputs(ROOT / f"nbs/{name}.ipynb", executed)
        print(f"{name}: {'new outputs' if changed else 'unchanged'}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", choices=["reports", "refresh"])
    parser.add_argument("names", nargs="*",
                        help="notebooks below nbs/, without suffix, such as model/unet; refresh takes all by default")
    parser.add_argument("--recompute", action="store_true", help="redo expensive results, do not read their records")
    parser.add_argument("--minutes", action="store_true", help="keep anew how long each notebook takes")
    arguments = parser.parse_intermixed_args()
    everything = [name.removesuffix(".ipynb") for name in listed(ROOT / "nbs/sidebar.yml")]
    try:
        surroundings()
        if arguments.task == "reports":
            reports(arguments.names, arguments.recompute, arguments.minutes)
        else:
            refresh(arguments.names or everything)
    except KeyboardInterrupt:
        sys.exit("stopped; the same command goes on from what is finished")
