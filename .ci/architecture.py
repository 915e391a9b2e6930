"""The architecture picture of CONTRIBUTING.md, drawn from the code: `architecture.py` writes it, `--check` compares it.

A box is a module, in the frame of its folder below clipsynth/. A module imports from its own folder and from those
that stand before it in `FOLDERS`, never from a later one. An arrow points to what is imported: solid, when the module
is loaded; dotted, when a function runs. Imports that follow from other arrows are not drawn, nor those of a module
that all others import.
"""
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIBRARY, PAGE = "clipsynth", "CONTRIBUTING.md"
BEGIN, END = "<!-- architecture: written by .ci/architecture.py -->", "<!-- end of architecture -->"
SPACING = '%%{init: {"flowchart": {"nodeSpacing": 14, "rankSpacing": 32, "subGraphTitleMargin": {"bottom": 12}}}}%%'
FOLDERS = ("base", "worlds", "model", "data", "engine", "results", "listen")  # each may import from those before it
Graph = dict[str, set[str]]  # of each module, what it imports


def modules(root: Path) -> dict[str, Path]:
    """The library's modules by dotted name, without what nbdev writes for itself."""
    found = {path.relative_to(root / LIBRARY).with_suffix("").as_posix().replace("/", "."): path
             for path in sorted((root / LIBRARY).rglob("*.py"))}
    return {name: path for name, path in found.items() if not name.rpartition(".")[2].startswith("_")}


def imported(node: ast.AST, package: list[str], names: set[str]) -> Iterator[str]:
    """The modules that an import statement names."""
    if isinstance(node, ast.Import):
        whole = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        start = [LIBRARY, *package][: len(package) + 2 - node.level] if node.level else []
        start += node.module.split(".") if node.module else []
        whole = [start, *([*start, alias.name] for alias in node.names)]
    else:
        return
    yield from (name for first, *rest in whole if first == LIBRARY and (name := ".".join(rest)) in names)


def statements(node: ast.AST, late: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every statement, and whether it runs only when a function does; nothing that is for type checkers alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from ((other, late) for other in child.orelse)
            continue
        yield child, late
        yield from statements(child, late or isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))


def imports(root: Path) -> tuple[Graph, Graph]:
    """What each module imports when it is loaded, and what its functions import besides."""
    known = modules(root)
    loaded: Graph = {name: set() for name in known}
    late: Graph = {name: set() for name in known}
    for name, path in known.items():
        for node, inside in statements(ast.parse(path.read_text(encoding="utf-8"))):
            graph = late if inside else loaded
            graph[name] |= {*imported(node, name.split(".")[:-1], set(known))} - {name}
    return loaded, {name: late[name] - loaded[name] for name in known}


def reachable(graph: Graph, start: str) -> set[str]:
    """Everything that a module imports, itself or through others."""
    found: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - found
        found |= new
        todo += new
    return found


def upward(loaded: Graph, late: Graph) -> list[str]:
    """Imports from a folder above, when a module is loaded or when a function runs."""
    level = {name: FOLDERS.index(folder) if (folder := name.rpartition(".")[0]) in FOLDERS else len(FOLDERS)
             for name in loaded}
    return [f"{name} imports {other}" for name in loaded for other in sorted(loaded[name] | late[name])
            if level[other] > level[name]]


def frames(root: Path) -> dict[str, list[str]]:
    """The modules of each folder, from the lowest up."""
    found: dict[str, list[str]] = {folder: [] for folder in FOLDERS}
    for name in modules(root):
        found.setdefault(name.rpartition(".")[0] or LIBRARY, []).append(name)
    return {folder: members for folder, members in found.items() if members}


def picture(root: Path) -> str:
    """The Mermaid block."""
    loaded, late = imports(root)
    beyond = {name: reachable(loaded, name) for name in loaded}
    circle = [name for name in loaded if name in beyond[name]]
    if circle:
        raise SystemExit(f"these modules import each other when they are loaded: {', '.join(circle)}")
    if wrong := upward(loaded, late):
        raise SystemExit(f"imports go one way, {' <- '.join(FOLDERS)}: {', '.join(wrong)}")
    common = set.intersection(*({name, *beyond[name]} for name in loaded))
    node = {name: name.replace(".", "_") for name in loaded}
    lines = ["```mermaid", SPACING, "flowchart BT"]
    for number, (frame, members) in enumerate(frames(root).items()):
        lines.append(f'  subgraph frame{number}["{frame}"]')
        lines += [f'    {node[name]}["{name.rpartition(".")[2]}"]' for name in members]
        lines.append("  end")
    for name in loaded:
        direct = loaded[name] - {far for near in loaded[name] for far in beyond[near]}
        lines += [f"  {node[name]} --> {node[other]}" for other in sorted(direct - common)]
        lines += [f"  {node[name]} -.-> {node[other]}" for other in sorted(late[name] - beyond[name])]
    return "\n".join([*lines, "```"])


def page(root: Path) -> str:
    """CONTRIBUTING.md with today's picture."""
    text = (root / PAGE).read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{PAGE} has no lines {BEGIN} and {END}: put them where the picture belongs")
    return f"{before}{begin}\n{picture(root)}\n{end}{after}"


if __name__ == "__main__":
    wanted, path = page(ROOT), ROOT / PAGE
    there = path.read_text(encoding="utf-8")
    if "--check" in sys.argv and there != wanted:
        sys.exit(f"the picture in {PAGE} is not what {LIBRARY}/ imports: run .ci/architecture.py")
    if there != wanted:
        path.write_text(wanted, encoding="utf-8")
    print(f"{PAGE}: {'unchanged' if there == wanted else 'written'}")
