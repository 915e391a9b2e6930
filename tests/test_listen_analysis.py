"""The analysis of a listening test: oracles, intervals that hold the truth, votes from every form, the chapter."""

import hashlib
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import choix
import krippendorff
import numpy as np
import pandas as pd
import pytest
from conftest import BIN, ROOT, run
from scipy.optimize import minimize

from clipsynth.base.hashing import numpy_rng
from clipsynth.base.process import UserError
from clipsynth.base.tables import read_table
from clipsynth.listen.agreement import krippendorff_alpha
from clipsynth.listen.building import build_test
from clipsynth.listen.design import CRITERIA, REAL, Choices, Plan, lay_out
from clipsynth.listen.exclusions import screen
from clipsynth.listen.preference import comparisons, points, resample, scores
from clipsynth.listen.simulate import Truth, ballots, rehearsed, simulate, true_scores
from clipsynth.listen.sounds import SoundKey, Sounds
from clipsynth.listen.strengths import chances, fit_strengths, strengths
from clipsynth.listen.test_folder import read_key, read_test
from clipsynth.listen.vote_store import VoteFile
from clipsynth.listen.votes import COLUMNS, open_test, read_votes

SYSTEMS = ("clipsynth", "clipsynth-text", "clipsynth-hybrid", "retriever")
OPINION = dict(zip(SYSTEMS, (0.1, -0.4, -0.3, 0.6), strict=True))


# Oracles

@pytest.mark.parametrize("seed", range(3))
def test_strengths_without_draws_are_those_of_choix(seed: int) -> None:
    rng = numpy_rng("choix", seed)
    games = [(int(a), int(b)) for a, b in rng.integers(6, size=(150, 2)) if a != b]
    wins = np.zeros((1, 6, 6))
    np.add.at(wins[0], tuple(np.array(games).T), 1)
    found, tie = fit_strengths(wins, 0 * wins, prior=0.01)
    theirs = choix.opt_pairwise(6, games, alpha=0.01, tol=1e-10)
    assert found[0] == pytest.approx(theirs - theirs.mean(), abs=1e-6) and tie[0] == 0


def test_strengths_with_draws_are_the_most_likely() -> None:
    """A general optimiser finds nothing better, for weights that are no whole numbers either."""
    rng = numpy_rng("davidson")
    wins = rng.exponential(5, size=(4, 5, 5)) * (1 - np.eye(5))
    half = rng.exponential(2, size=(4, 5, 5)) * (1 - np.eye(5))
    draws = half + half.swapaxes(1, 2)
    found, tie = fit_strengths(wins, draws, prior=0.01)

    def cost(x: np.ndarray, won: np.ndarray, even: np.ndarray) -> float:
        win, draw = chances(x[:5, None] - x[:5], np.exp(x[5]))
        return float(-(won * np.log(win)).sum() - (even * np.log(draw)).sum() / 2 + 0.01 * np.square(x[:5]).sum())

    for one in range(4):
        theirs = minimize(cost, np.zeros(6), args=(wins[one], draws[one]), tol=1e-12).x
        assert found[one] == pytest.approx(theirs[:5] - theirs[:5].mean(), abs=1e-4)
        assert tie[one] == pytest.approx(np.exp(theirs[5]), rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_alpha_is_that_of_krippendorff(seed: int) -> None:
    rng = numpy_rng("alpha", seed)
    counts = rng.integers(0, 4, size=(40, 3)) * (rng.random((40, 1)) < 0.8)
    counts[0] = (1, 1, 0)
    theirs = krippendorff.alpha(value_counts=counts[counts.sum(1) > 0], value_domain=[0, 1, 2],
                                level_of_measurement="ordinal")
    assert krippendorff_alpha(counts)[0] == pytest.approx(theirs, abs=1e-12)


# Truth is found again

@pytest.fixture(scope="module")
def repeated() -> pd.DataFrame:
    """Eighty tests of the paper's size by listeners whose truth is known."""
    truth, rows = Truth({"quality": OPINION}, item_sd=0.8), []
    choices = {"music": Choices(SYSTEMS, tuple((f"class {n}", "0") for n in range(21)))}
    empty = ballots(lay_out(choices, Plan(criteria=("quality",), identical=0, noise=0, repeats=0)))
    true = true_scores(truth, "quality")
    for seed in range(80):
        votes = simulate(empty, truth, seed)
        fitted = strengths(votes, 50, seed).set_index("system")["strength"]
        plan, (got, met) = resample(votes, 200, seed), points(votes, list(SYSTEMS))
        single = numpy_rng("single", seed).standard_exponential((200, len(votes)))
        alone = ((single @ got) / (single @ met)).std(axis=0)
        for at, (_, row) in enumerate(scores(votes, 200, seed).set_index("system").loc[list(SYSTEMS)].iterrows()):
            e, system = row["score"], SYSTEMS[at]
            rows.append({"seed": seed, "system": system, "held": e.low <= true[system] <= e.high,
                         "simple": abs(e.value - true[system]) <= 2 * alone[at], "width": e.high - e.low,
                         "score": e.value, "true": true[system], "strength": fitted[system].value})
        assert plan.units[:2] == (30, 21)
    return pd.DataFrame(rows)


def test_intervals_hold_the_truth(repeated: pd.DataFrame) -> None:
    """Of 320 intervals, in 80 tests, 95 % less three standard deviations; votes taken as independent are worse."""
    assert repeated["held"].mean() >= 0.95 - 3 * (0.05 * 0.95 / 80) ** 0.5 / 2
    assert repeated["simple"].mean() < repeated["held"].mean() - 0.02
    assert 0.1 < repeated["width"].mean() < 0.3


def test_known_strengths_are_recovered(repeated: pd.DataFrame) -> None:
    mean = repeated.groupby("system")[["score", "true", "strength"]].mean()
    assert (mean["score"] - mean["true"]).abs().max() < 0.02
    middle = np.mean(list(OPINION.values()))
    for system, strength in OPINION.items():  # tastes and sounds draw strengths together
        assert abs(mean["strength"][system]) <= abs(strength - middle) + 0.08
    assert mean["strength"].sort_values().index.tolist() == sorted(SYSTEMS, key=lambda s: OPINION[s])


def test_bench_covers() -> None:
    """What `bench/listening_coverage.py` measured: 500 tests of each kind."""
    measured = json.loads((ROOT / "bench/results/listening_coverage.json").read_text(encoding="utf-8"))
    lines = measured["coverage"]
    assert len(lines) >= 10 and all(line["tests"] >= 500 for line in lines)
    assert min(line["covers"]["ours"] for line in lines) >= 0.93
    assert min(line["strengths cover"] for line in lines) >= 0.93
    assert min(line["covers"]["votes independent"] for line in lines) < 0.9
    assert measured["false"]["any, Holm"] <= 0.05 < measured["false"]["any, uncorrected"]
    for line in lines:
        for what, near in (("scores", 0.02), ("strengths", 0.12)):
            true, mean = line[f"true {what}"], line[f"mean {what}"]
            far = 2.5 if "far apart" in line["differ"] else 1
            assert all(abs(true[s] - mean[s]) < near * far for s in true), (line["differ"], what)


def test_nothing_is_found_where_nothing_is() -> None:
    alike = Truth({name: dict.fromkeys(SYSTEMS, 0.0) for name in CRITERIA})
    choices = {name: Choices(SYSTEMS, tuple((f"class {n}", "0") for n in range(21))) for name in ("a", "b")}
    empty = ballots(lay_out(choices, Plan(identical=0, noise=0, repeats=0)))
    found = [comparisons(simulate(empty, alike, seed), 100, seed) for seed in range(12)]
    assert all(len(table) == 36 for table in found)
    assert sum((table["p (Holm)"] < 0.05).any() for table in found) <= 2
    assert 0.01 < np.mean([(table["p"] < 0.05).mean() for table in found]) < 0.09


# Votes from every form

@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """The key of a small test, and votes on it."""
    folder = tmp_path_factory.mktemp("listening")
    waves = {SoundKey(system, world, f"class {n}", "0"): 0.1 * numpy_rng(system, world, n).normal(size=8_000)
             for system in (*SYSTEMS, REAL) for world in ("mini-music", "mini-vggsound") for n in range(11)}
    key = build_test(folder / "test", Sounds(16_000, waves), Plan(listeners=12), salt="salt")
    test = read_test(folder / "test")
    truth = Truth(dict.fromkeys(CRITERIA, OPINION))
    return key, simulate(rehearsed(test, read_key(test)), truth)


def raw(vote: pd.Series) -> dict:
    """A vote as a page sends it."""
    return {"vote_id": hashlib.md5(vote["vote_id"].encode()).hexdigest(), "position": vote["order"] + 1,
            **{name: vote[name] for name in ("trial", "criterion", "score", "seconds", "played_left", "played_right")}}


def sent(votes: pd.DataFrame) -> list[list[dict]]:
    """Each listener's votes, in the order of the lists."""
    return [[raw(vote) for _, vote in some.iterrows()] for _, some in votes.groupby("listener", sort=False)]


def same(found: pd.DataFrame, votes: pd.DataFrame) -> bool:
    names = ["trial", "kind", "dataset", "query", "criterion", "left", "right", "score", "seconds", "clip", "repeats"]
    tables = [table[names].sort_values(["trial", "criterion"], ignore_index=True) for table in (found, votes)]
    return tables[0].equals(tables[1]) and found["listener"].nunique() == votes["listener"].nunique()


def page_files(folder: Path, key: Path, votes: pd.DataFrame) -> Path:
    folder.mkdir()
    for slot, mine in enumerate(sent(votes)):
        about = {"design": open_test(key).design, "listener": f"{slot:032x}", "slot": slot, "code": "C0DE"}
        (folder / f"{slot}.json").write_text(json.dumps({**about, "headphones": 6, "votes": mine}))
    return folder


def test_every_form_gives_one_table(built: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    key, votes = built
    test = read_test(key.with_name("test"))
    server = VoteFile(tmp_path / "votes.sqlite", test)
    lists = sent(votes)
    for _ in lists:
        token, slot = server.start()
        server.add(server.listener(token), lists[slot])
        server.add(server.listener(token), lists[slot][:3])  # sent again
    server.close()
    assert same(read_votes(tmp_path / "votes.sqlite", key), votes)
    assert same(read_votes(page_files(tmp_path / "pages", key, votes), key), votes)
    digest, answers = open_test(key).design, {1.0: "correct", 0.5: "undecided", 0.0: "incorrect"}
    for kind, head in (("paired_comparison", "choice_reference,choice_non_reference,choice_answer,choice_time"),
                       ("lms", "stimuli_rating,stimuli,rating_time")):
        for slot, mine in enumerate(lists):
            place = tmp_path / kind / f"listening_{digest}_{slot}"
            place.mkdir(parents=True)
            lines = [f"session_test_id,trial_id,{head}"]
            for vote in mine:
                begin = f"{place.name},{vote['trial']}.{vote['criterion']}"
                time = round(1_000 * vote["seconds"])
                if kind == "lms":
                    lines += [f'{begin}," {3 + round(2 * vote["score"]) - 1} ",left,{time}',
                              f'{begin}," 3 ",right,{time}']
                else:
                    lines.append(f"{begin},reference,right,{answers[vote['score']]},{time}")
            (place / f"{kind}.csv").write_text("\n".join(lines) + "\n")
        found = read_votes(tmp_path / kind, key)
        assert same(found, votes) and not found["sides"].any() and list(found.columns) == list(COLUMNS)
    kept = screen(read_votes(tmp_path / "votes.sqlite", key), open_test(key).rules, open_test(key).length)
    assert len(kept.votes) + kept.excluded["votes"].sum() == len(votes)


def test_a_damaged_file_is_an_error_in_one_line(built: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    """Bytes of a result are changed at random: it is read as a table of votes, or refused in one line."""
    key, votes = built
    opened, rng = open_test(key), numpy_rng("damaged")
    good = next(page_files(tmp_path / "pages", key, votes).iterdir()).read_bytes()
    refused = 0
    for n in range(150):
        data = bytearray(good[: rng.integers(len(good))] if n % 5 == 0 else good)
        for at in rng.integers(len(data), size=3):
            data[at] = rng.integers(256)
        path = tmp_path / "damaged.json"
        path.write_bytes(bytes(data))
        try:
            found = read_votes(path, opened)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert set(found["score"]) <= {0, 0.5, 1} and set(found["trial"]) <= set(opened.trials)
    assert refused > 100


def test_another_tests_votes_are_refused(built: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    key, votes = built
    folder = page_files(tmp_path / "pages", key, votes)
    path = folder / "0.json"
    told = json.loads(path.read_text())
    for change, said in (({"design": "0" * 16}, "another test's"), ({"slot": 1}, "not given to this listener"),
                         ({"slot": 99}, "not given"), ({"slot": "0"}, "not given"), ({"listener": "a/b"}, "listener"),
                         ({"votes": [{"vote_id": 1}]}, "vote_id"), ({"votes": {}}, "no list of votes")):
        path.write_text(json.dumps(told | change))
        with pytest.raises(UserError, match=said):
            read_votes(folder, key)
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as file, file:
        file.execute("CREATE TABLE votes(a)")
    with pytest.raises(UserError, match="cannot read the votes"):
        read_votes(tmp_path / "other.sqlite", key)
    with pytest.raises(UserError, match="no votes there"):
        read_votes(tmp_path / "nothing", key)


# The chapter

def test_no_person_has_voted() -> None:
    """Table 2 holds the paper's scores and none of ours; whatever was simulated says so."""
    table = read_table(ROOT / "reports/tables/table2.csv")
    ours = [name for name in table if re.match(r"(quality|relevance|noise) .*, mini-", name)]
    assert len(ours) == 6 and table[ours].isna().all(axis=None)
    assert "SIMULATED" not in (ROOT / "reports/tables/table2.md").read_text(encoding="utf-8")
    about = json.loads((ROOT / "reports/provenance/06_listen.json").read_text(encoding="utf-8"))["files"]
    for name, told in about.items():
        if "/listening_" in name and "form" not in name:
            assert "SIMULATED" in told["caption"], name


def test_votes_fill_the_table(built: tuple[Path, pd.DataFrame], tmp_path: Path) -> None:
    key, votes = built
    folder = page_files(tmp_path / "pages", key, votes)
    run(BIN / "papermill", "nbs/06_listen.ipynb", tmp_path / "out.ipynb", "-p", "votes", folder, "-p", "key", key,
        CLIPSYNTH_REPORTS=tmp_path / "reports")
    table = read_table(tmp_path / "reports/tables/table2.csv").set_index("model")
    opened = open_test(key)
    expected = scores(screen(read_votes(folder, opened), opened.rules, opened.length).votes)
    for _, line in expected.iterrows():
        name = {"retriever": "CLIPRetriever", "clipsynth": "CLIPSynth"}.get(line["system"])
        arrow = "↓" if line["criterion"] == "noise" else "↑"
        if name:
            cell = table[f"{line['criterion']} {arrow}, {line['dataset']}"][name]
            assert cell.value == pytest.approx(line["score"].value, abs=1e-5) and cell.low < cell.value < cell.high
    for name in ("scores", "comparisons", "strengths", "agreement", "excluded"):
        assert (tmp_path / f"reports/tables/listening_{name}.md").exists(), name
