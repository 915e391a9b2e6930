"""Give the built site the pictures and sounds of reports/ that its pages link to."""
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    site = ROOT / "_docs"
    for kind in ("figures", "audio", "tables"):
        if (ROOT / "reports" / kind).exists():
            shutil.copytree(ROOT / "reports" / kind, site / "reports" / kind, dirs_exist_ok=True)
    for page in site.glob("*.html"):
        text = page.read_text(encoding="utf-8")
        page.write_text(text.replace('"../reports/', '"reports/'), encoding="utf-8")
