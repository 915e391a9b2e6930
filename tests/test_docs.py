"""The docs pages can be made: by nbdev's own step without Quarto, and by nbdev_docs where Quarto is."""
import json
import shutil
from pathlib import Path

import pytest
from conftest import BIN, ROOT, copy_of_checkout, run

PROCESS = """
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
if __name__ == "__main__":
    refresh_quarto_yml()
    print(proc_nbs("nbs", n_workers=2, force=True))
"""


def test_pages_are_processed_without_quarto(tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path / "copy")
    (copy / "process.py").write_text(PROCESS, encoding="utf-8")
    done = run(BIN / "python", "process.py", cwd=copy, PYTHONPATH=copy)
    assert "Error in notebook" not in done.stderr, done.stderr[-3000:]
    pages = {path.name for path in (copy / "_proc").glob("*.ipynb")}
    assert pages == {path.name for path in (ROOT / "nbs").glob("[!._]*.ipynb")}
    for name in ("_quarto.yml", "nbdev.yml", "sidebar.yml", "styles.css"):
        assert (copy / "_proc" / name).read_text() == (ROOT / "nbs" / name).read_text(), f"nbdev writes another {name}"
    page = json.loads((copy / "_proc/00a_audio.ipynb").read_text(encoding="utf-8"))["cells"]
    assert any("log_mel" in json.dumps(cell.get("outputs", [])) for cell in page), "the library is shown"


@pytest.mark.skipif(not shutil.which("quarto"), reason="Quarto is not installed")
def test_site_is_built(tmp_path: Path) -> None:
    copy = copy_of_checkout(tmp_path / "copy")
    (copy / "README.md").touch()
    run(BIN / "nbdev_docs", cwd=copy, PYTHONPATH=copy)
    run(BIN / "python", ".ci/site.py", cwd=copy)
    assert (copy / "_docs/index.html").exists() and (copy / "_docs/diffusion.html").exists()
