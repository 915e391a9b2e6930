"""The gallery: its sounds are current, light, and can be made again."""
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import ROOT

from clipsynth.base.profiles import profile
from clipsynth.base.report import Report, provenance
from clipsynth.base.tables import read_table
from clipsynth.results.audit import AuditBench
from clipsynth.results.bench import Bench
from clipsynth.results.gallery import (
    ALIKE,
    gallery_files,
    gallery_key,
    known_systems,
    make_gallery,
    shown_moments,
    sounds_apart,
    write_gallery,
)
from clipsynth.results.report_page import template_digest

MINI = profile("mini")
REPORTS = ROOT / "reports"


def listed() -> list[str]:
    """Every file of the gallery, from the folder of the reports."""
    return sorted(p.relative_to(REPORTS).as_posix() for p in (REPORTS / "gallery").rglob("*") if p.is_file())


def test_gallery_is_current() -> None:
    """Each system's sounds were made from today's inputs, and no others lie there."""
    inputs, wanted, keys = provenance(REPORTS)["index.html"]["inputs"], [], {"template": template_digest()}
    for dataset in MINI.datasets:
        bench = Bench(MINI, dataset)
        shown = shown_moments(bench)
        for system in known_systems(bench)[0]:
            keys[f"{dataset}/{system.name}"] = gallery_key(bench, system)
            wanted += gallery_files(bench, system, shown)
    assert inputs == keys, "run `make reports`"
    assert listed() == sorted(wanted)


def test_gallery_is_light() -> None:
    files = [*listed(), "index.html"]
    assert sum((REPORTS / name).stat().st_size for name in files) <= 4_000_000
    assert (REPORTS / "index.html").stat().st_size <= 400_000


def test_every_sound_is_one() -> None:
    """Whole, mono, and not silent."""
    sounds = [name for name in listed() if name.endswith(".ogg")]
    assert len(sounds) > 400
    for name in sounds:
        sound, rate = soundfile.read(REPORTS / name, dtype="float32")
        assert (sound.shape, rate) == ((65_536,), 16_000), name
        assert np.sqrt(np.square(sound).mean()) > 1e-3, f"{name} is silent"


def test_sounds_can_be_made_again(tmp_path: Path) -> None:
    """One class, from a video rendered now: every system sounds as it was kept, and not as another class."""
    bench = AuditBench(MINI, "mini-music", tmp_path, most=1, classes=["violin"])
    (moment,) = [one for one in shown_moments(bench) if one.label == "violin"]
    for system in known_systems(bench)[0]:
        if system.model == "retriever":  # its sound lies in a training video, which is not rendered here
            continue
        name = gallery_files(bench, system, [moment])[-1]
        fresh = make_gallery(bench, system, [moment])[-1]
        assert sounds_apart(REPORTS / name, fresh) < ALIKE, name
        assert sounds_apart(REPORTS / name.replace("violin", "tuba"), fresh) > 3 * ALIKE, name


def test_nothing_is_made_where_nothing_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere, too: the committed sounds are taken, byte by byte, and the feature store is not asked for."""
    monkeypatch.setenv("CLIPSYNTH_REPORTS", str(tmp_path))

    def made(*_: object) -> None:
        raise AssertionError("a store was needed")

    monkeypatch.setattr(Bench, "store", property(made))
    report = Report("results/report_page", MINI)
    for dataset in MINI.datasets:
        assert write_gallery(Bench(MINI, dataset), report).made == []
    assert {name: (tmp_path / name).read_bytes() for name in report.files} == \
        {name: (REPORTS / name).read_bytes() for name in listed()}


def test_page_says_what_the_tables_say() -> None:
    text = (REPORTS / "index.html").read_text(encoding="utf-8")
    csv = [name for name in provenance(REPORTS) if name.endswith(".csv")]
    for name in (name for name in csv if name.startswith(("tables/table1", "tables/claims"))):
        assert text.count(f'href="{name}"') == 2, "below the table and in the list of all files"
    claims = [read_table(REPORTS / name) for name in csv if name.startswith("tables/claims")]
    verdicts = [word for table in claims for name in table if "verdict" in name for word in table[name]]
    assert verdicts and text.count('class="holds"') == sum(str(word).startswith("holds") for word in verdicts)
