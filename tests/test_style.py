"""The exported library, the tests and the helper scripts pass the linter; the library passes the type checker."""
import ast

from conftest import BIN, ROOT, run


def test_ruff() -> None:
    run(BIN / "ruff", "check", "--output-format", "concise", "clipsynth", "tests", ".ci", "setup.py")


def test_mypy() -> None:
    run(BIN / "mypy", "clipsynth")


def test_width() -> None:
    """No exported line is wider than the linter's limit, apart from what nbdev makes itself."""
    wide = []
    for module in sorted((ROOT / "clipsynth").glob("[!_]*.py")):
        text = module.read_text(encoding="utf-8")
        names = next(node for node in ast.parse(text).body if isinstance(node, ast.Assign))
        assert isinstance(names.end_lineno, int)
        wide += [f"{module.name}:{number}" for number, line in enumerate(text.splitlines(), 1)
                 if len(line) > 120 and not (number == 1 or names.lineno <= number <= names.end_lineno)]
    assert wide == []
