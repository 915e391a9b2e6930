"""The notebooks run: all of them through nbdev_test, the run notebooks from nothing at smoke size through papermill."""
import shutil
from pathlib import Path

from conftest import BIN, ROOT, RUN_NOTEBOOKS, SmokeRun, run, state

from clipsynth.base.report import provenance


def test_nbdev_test(tmp_path: Path) -> None:
    before = state("reports", "data", "nbs")
    reports = tmp_path / "reports"
    shutil.copytree(ROOT / "reports", reports)  # the front page shows tables, whatever ran before it
    # one run notebook plays recordings, for which whole worlds are rendered first: the smoke run has it
    own = "^([_.]|failures)"
    run(BIN / "nbdev_test", "--n_workers", 2, "--timing", "--skip_file_re", own, CLIPSYNTH_REPORTS=reports)
    assert state("reports", "data", "nbs") == before


def test_smoke_run_starts_from_nothing(smoke_run: SmokeRun) -> None:
    """Videos were rendered, networks trained a few steps, everything evaluated, in a data folder of their own."""
    assert [path.name for path in smoke_run.data.iterdir()] == ["smoke"]
    assert list((smoke_run.data / "smoke").rglob("*.mp4"))
    models = {path.stem for path in (smoke_run.data / "smoke/weights").rglob("*.safetensors")}
    assert models >= {"clipsynth", "clipsynth-text", "clipsynth-hybrid", "clipsynth-guided", "hifigan", "magnitude",
                      "miniclip", "audio-net", "mel-net", "specvqgan"}
    records = {path.stem for path in (smoke_run.data / "smoke/records/mini-music").glob("*.safetensors")}
    assert records >= {"manifest", "moments", "real-train", "alternatives"}, "the audit of the records stands on these"


def test_smoke_run_leaves_mini_alone(smoke_run: SmokeRun) -> None:
    assert smoke_run.untouched
    assert [path.name for path in smoke_run.reports.iterdir()] == ["smoke"]


def test_smoke_run_reports_what_mini_reports(smoke_run: SmokeRun) -> None:
    made, committed = provenance(smoke_run.reports / "smoke"), provenance(ROOT / "reports")
    assert {entry["profile"] for entry in made.values()} == {"smoke"}
    assert all((smoke_run.reports / "smoke" / name).stat().st_size for name in made)
    assert {entry["notebook"] for entry in made.values()} == set(RUN_NOTEBOOKS)
    tables = {name for name, entry in committed.items() if name.endswith(".csv") and entry["notebook"] in RUN_NOTEBOOKS}
    needs_more = {"tables/zoo_seeds.csv"}  # of second trainings, which a smoke run has not
    assert tables - needs_more <= set(made)
