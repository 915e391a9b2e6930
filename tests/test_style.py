"""The exported library, the tests and the helper scripts pass the linter; the library passes the type checker."""
import ast
import json
import re

from conftest import BIN, ROOT, run


def test_ruff() -> None:
    run(BIN / "ruff", "check", "--output-format", "concise", "clipsynth", "tests", ".ci", "setup.py")


def test_mypy() -> None:
    run(BIN / "mypy", "clipsynth")


def test_rooms_are_of_the_right_size() -> None:
    """Modules and exported cells stay short; a cell above the limit holds one class, one function or one table."""
    modules = {path: path.read_text(encoding="utf-8").count("\n") for path in (ROOT / "clipsynth").rglob("[!_]*.py")}
    assert {str(path.relative_to(ROOT)): lines for path, lines in modules.items() if not 40 <= lines <= 370} == {}
    assert sum(lines < 80 for lines in modules.values()) <= len(modules) // 15
    tall = []
    for notebook in sorted((ROOT / "nbs").rglob("[!._]*.ipynb")):
        for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
            text = "".join(cell["source"])
            if cell["cell_type"] != "code":
                continue
            wide = [line for line in text.splitlines() if len(line) > 100 and not line.startswith("#| fig-alt")]
            assert wide == [], f"{notebook.name}, cell {number}: lines of at most 100 characters"
            if re.match(r"#\|\s*exports?\b", text) and text.count("\n") >= 45:
                kinds = (ast.FunctionDef, ast.ClassDef)
                alone = sum(isinstance(node, kinds) for node in ast.parse(text).body)
                assert alone <= 1, f"{notebook.name}, cell {number}: exported cells of at most 45 lines"
                tall.append(f"{notebook.name}:{number}")
    assert len(tall) <= 12, tall  # a class is read as one


def test_width() -> None:
    """No exported line is wider than the linter's limit, apart from what nbdev makes itself."""
    wide = []
    for module in sorted((ROOT / "clipsynth").rglob("[!_]*.py")):
        text = module.read_text(encoding="utf-8")
        names = next(node for node in ast.parse(text).body if isinstance(node, ast.Assign))
        assert isinstance(names.end_lineno, int)
        wide += [f"{module.name}:{number}" for number, line in enumerate(text.splitlines(), 1)
                 if len(line) > 120 and not (number == 1 or names.lineno <= number <= names.end_lineno)]
    assert wide == []
