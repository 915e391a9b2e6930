"""The curve against core-hours: made from copies of states, each looked at once."""
import json
import shutil
import sys
from pathlib import Path

from conftest import ROOT, SmokeRun, run


def test_curve_looks_at_each_state_once(smoke_run: SmokeRun, tmp_path: Path) -> None:
    states, results = tmp_path / "states/mini-music", tmp_path / "curve.json"
    states.mkdir(parents=True)
    shutil.copy(smoke_run.data / "smoke/runs/mini-music/clipsynth/state.pt", states / "clipsynth-4.pt")
    (states / "clipsynth-8.pt").write_bytes(b"half a file")

    def look() -> list[dict[str, object]]:
        run(sys.executable, ROOT / "bench/curve.py", states.parent, "--profile", "smoke", "--to", results,
            CLIPSYNTH_DATA=smoke_run.data)
        return json.loads(results.read_text())["rows"]

    rows = look()
    about = [(row["world"], row["model"], row["step"], row["asked"]) for row in rows]
    assert about == [("mini-music", "clipsynth", 4, 128)]
    assert all(row["core_seconds"] > 0 and 0 < row["error_200"] and 0 <= row["probe"] <= 100 for row in rows)
    assert look() == rows, "the row that is there was not made again"
