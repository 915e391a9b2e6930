"""Every committed record is what today's weights and code make: a few rows of each are made again and compared."""
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from clipsynth.base.places import weights_file
from clipsynth.base.process import UserError
from clipsynth.base.profiles import profile
from clipsynth.base.records import TOLERANCE, Finding, Records, read_record
from clipsynth.base.weights import load_weights, save_weights
from clipsynth.engine import queries, sampling
from clipsynth.listen import table2
from clipsynth.model import samplers
from clipsynth.results import (
    audio_words,
    compose_study,
    editing_study,
    failures,
    fine_tuning,
    gap_causes,
    gap_lab,
    gap_queries,
    gap_training,
    offscreen,
    quality,
    sampler_cost,
    systems,
    table1,
    test_set,
    zoo,
)
from clipsynth.results import bench as benches
from clipsynth.results.audit import AuditBench
from clipsynth.results.bench import Bench
from clipsynth.worlds import music
from clipsynth.worlds.drawings import SHAPES
from clipsynth.worlds.instruments import INSTRUMENTS

MINI = profile("mini")


CHAPTERS: dict[str, list[Callable[[Bench], object]]] = {
    "mini-music": [table1.table1_records, systems.examples, zoo.zoo_records, fine_tuning.vocoder_records,
                   sampler_cost.sampler_records, gap_queries.gap_query_records, gap_lab.lab_records,
                   editing_study.editing_records, compose_study.and_records, quality.quality_records,
                   offscreen.offscreen_records, audio_words.audio_words_records,
                   failures.failures_records,
                   gap_training.gap_training_records, gap_training.longer_records,
                   gap_causes.gap_causes_records, table2.listen_records],
    "mini-vggsound": [table1.table1_records, zoo.zoo_records, fine_tuning.vocoder_records, quality.quality_records,
                      gap_queries.gap_query_records, gap_lab.lab_records, compose_study.and_records,
                      table2.listen_records],
}


@dataclass(frozen=True)
class Audit:
    """A bench with a few videos, and what it found."""
    bench: AuditBench
    findings: list[Finding]


@pytest.fixture(scope="module", params=list(CHAPTERS))
def audit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """Each record of a world, a few rows made again from the weights and from videos rendered now."""
    bench = AuditBench(MINI, request.param, tmp_path_factory.mktemp(request.param))
    for records in CHAPTERS[request.param]:
        records(bench)
    return Audit(bench, bench.audit.findings)


def test_records_are_what_todays_code_makes(audit: Audit) -> None:
    failed = [f"{f.record}: {f.array} {f.worst:.3g} of its spread {f.note}" for f in audit.bench.audit.failed]
    assert failed == [], "results changed: raise `version` where they are made, and `make reports RECOMPUTE=1`"


def test_every_record_is_audited(audit: Audit) -> None:
    """None is left over, and the ones that no row can check are few and known."""
    folder = ROOT / "data/records" / audit.bench.dataset
    there = {path.stem for path in folder.glob("*.safetensors")}
    kept = {path.stem for path in (ROOT / "data/weights" / audit.bench.dataset).glob("*.json")}  # without weights
    made_by = {name: read_record(folder / f"{name}.safetensors").inputs.get("weights", {}) for name in there}
    certified = {name for name, models in made_by.items() if kept & models.keys()}
    searches = {name for name in there if name.startswith("copies-")}  # of data/browse, through the whole store
    outside = {name for name in there if name.startswith("yamnet-")}  # of results/outside: YAMNet is not ours
    assert there - certified - searches - outside == {finding.record for finding in audit.findings}
    whole = {f.record for f in audit.findings if not f.rows}
    trained = ("training-distance-", "offscreen-", "gap-train-", "gap-cause-", "and-trained")  # no row alone
    whole = {name for name in whole if not name.startswith(trained)}
    assert whole <= {"manifest", "second-opinion", "nearest", "picture-centroid", "picture-axes", "hearing",
                     "floor-fine-tuning"}
    made = [f for f in audit.findings if f.rows]
    assert len(made) >= 15 and all(f.rows >= 1 for f in made)


@pytest.fixture(scope="module")
def violin(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., AuditBench]:
    """A bench with the video of one class only; `again`: rendered anew."""
    def make(again: bool = False, **changes: object) -> AuditBench:
        name = "again" if again else "violin"
        folder = tmp_path_factory.getbasetemp() / name
        return AuditBench(replace(MINI, **changes), "mini-music", folder, most=2, classes=["violin"])
    return make


def worst(bench: AuditBench) -> float:
    """The largest error in what was audited."""
    return max(finding.worst for finding in bench.audit.findings)


def one_model(bench: AuditBench) -> AuditBench:
    test_set.trial_record(bench)
    test_set.moments(bench)
    for modality in ("image", "text"):
        systems.measure_model(bench, "clipsynth", modality)
    return bench


def test_unchanged_code_passes(violin: Callable[..., AuditBench]) -> None:
    assert worst(one_model(violin())) < TOLERANCE / 2


def test_one_changed_weight_is_caught(violin: Callable[..., AuditBench], tmp_path: Path,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """By the inputs, which hold the digest of the weights."""
    path = weights_file(MINI, "mini-music", "clipsynth")
    state, config = load_weights(path)
    name = max(state, key=lambda k: state[k].numel())
    state[name].view(-1)[0] += 0.01
    monkeypatch.setenv("CLIPSYNTH_DATA", str(tmp_path))
    save_weights(weights_file(MINI, "mini-music", "clipsynth", new=True), state, config)
    with pytest.raises(UserError, match="made from other inputs .weights"):
        one_model(violin())


def changed_source(function: Callable[..., object], old: str, new: str) -> Callable[..., object]:
    """A function with one piece of its source replaced."""
    source = inspect.getsource(function)
    assert source.count(old) == 1
    scope = dict(vars(inspect.getmodule(function)))
    exec(source.replace(old, new), scope)  # noqa: S102
    return scope[function.__name__]


def test_one_changed_line_of_a_sampler_is_caught(violin: Callable[..., AuditBench],
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("slope = step / (level[i] - level[i - 1]) / 2", "slope = step / (level[i] - level[i - 1]) / 3")
    monkeypatch.setitem(sampling.SAMPLERS, "dpm-solver", changed_source(samplers.dpm_solver, *line))
    assert worst(one_model(violin())) > TOLERANCE


def test_a_violin_drawn_differently_is_caught(violin: Callable[..., AuditBench],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    shape = INSTRUMENTS["violin"].look.shape
    monkeypatch.setitem(SHAPES, shape, SHAPES["horn"])
    monkeypatch.setattr(music, "render_all", lambda render, jobs, workers: [render(*job) for job in jobs])
    bench = violin(again=True)
    test_set.moments(bench)
    assert worst(bench) > TOLERANCE


def test_another_prompt_is_caught(violin: Callable[..., AuditBench], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "prompt", lambda query, *_: f"a picture of {query}")
    bench = violin()
    systems.measure_model(bench, "clipsynth", "text")
    assert worst(bench) > TOLERANCE


def test_another_seed_is_caught(violin: Callable[..., AuditBench], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the configuration by the inputs; in the code by the rows."""
    with pytest.raises(UserError, match="other inputs .trials"):
        one_model(violin(eval=replace(MINI.eval, seed=1)))
    draw = benches.draw_trials
    monkeypatch.setattr(benches, "draw_trials", lambda store, samples, seed: draw(store, samples, seed)._replace(
        seed=np.arange(samples) + 1))
    bench = violin()
    systems.measure_model(bench, "clipsynth", "image")
    assert worst(bench) > TOLERANCE


def test_names_and_messages_are_no_inputs() -> None:
    """A record names data only, so a function can be renamed and an error reworded without a row being made again."""
    for path in sorted((ROOT / "data/records").glob("*/*.safetensors")):
        record = read_record(path)
        known = {"dataset", "clip", "vocoder", "bridge", "prompt", "weights", "trials", "settings", "version"}
        assert record and set(record.inputs) <= known
        models = record.inputs.get("weights", {})
        assert all(model in (*MINI.train, "miniclip") or "-seed" in model for model in models)


def test_a_renamed_function_makes_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another name, another message, another line of code: every record of every table is read as it is."""
    line = "choose 1 (DDIM) or 2", "take 1 (DDIM) or 2"
    solver = changed_source(samplers.dpm_solver, *line)
    solver.__name__ = "dpm_solver_2m"
    monkeypatch.setitem(sampling.SAMPLERS, "dpm-solver", solver)
    monkeypatch.delattr(samplers, "dpm_solver")

    def made(*_: object, **__: object) -> None:
        raise AssertionError("a record was made again")

    monkeypatch.setattr(Records, "_make", made)
    monkeypatch.setattr(Records, "_keep", made)
    monkeypatch.setattr(Bench, "store", property(made))
    for dataset, chapters in CHAPTERS.items():
        for records in chapters:
            records(Bench(MINI, dataset))
