"""The paper profile, rehearsed: the README's commands for MUSIC and VGG-Sound, with the paper's networks, to a Table 1.

Only numbers are small (a handful of rendered videos, batch 1, one step, two samples of two steps), so that somebody
with an A100 and the real videos is not the first to run it. All else is as in the README, the download excepted.
"""
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import BIN, ROOT, run

from clipsynth.base.config import EverydayConfig, WorldConfig, to_json
from clipsynth.base.profiles import PAPER
from clipsynth.base.report import provenance
from clipsynth.base.tables import read_table
from clipsynth.base.weights import load_config
from clipsynth.model.inputs import TEMPLATES
from clipsynth.worlds.everyday import render_everyday
from clipsynth.worlds.music import render_world

SETTINGS = """\
clip: ViT-B-32-quickgelu:{clip}
data.test_share: 0.3
train: {{steps: 1, batch: 1, compile: false, precision: fp32}}
eval: {{samples: 2, sample_steps: 2, batch: 2, bootstrap: 4}}
"""


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder with a few videos of both datasets, lists in their real forms, and an untrained ViT-B/32."""
    import open_clip

    room = tmp_path_factory.mktemp("paper")
    music = WorldConfig(instruments=("drum", "violin"), videos=3, seconds=11.0, frame_rate=4, picture=64)
    render_world(room / "music", music, workers=2)
    listed = json.loads((room / "music/list.json").read_text())["videos"]
    listed["violin"].append("kw-OQpF9N4E")  # one that could not be had
    (room / "music/list.json").write_text(json.dumps({"version": 2.0, "videos": listed}, indent=4))
    labels = "dog barking", "engine accelerating, revving, vroom"
    sounds = EverydayConfig(labels=labels, clips=4, frame_rate=4, picture=64, test_share=0.34, several=0.0)
    render_everyday(room / "vggsound", replace(sounds, broken=0.0, gone=0.0), workers=2)
    for name in ("world.json", "truth.csv", "captions.csv", "downloads.csv"):
        for dataset in ("music", "vggsound"):
            (room / dataset / name).unlink(missing_ok=True)
    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-32-quickgelu").state_dict(), room / "clip.pt")
    (room / "small.yaml").write_text(SETTINGS.format(clip=room / "clip.pt"))
    yield room
    shutil.rmtree(room)


def readme_commands(dataset: str) -> tuple[list[str], str]:
    """The words behind `clipsynth` in the README's lines for a dataset, download excepted, and its papermill line."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Bring your own videos")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.S)[1]
    lines = [line.partition("#")[0].strip().replace("music", dataset) for line in block.splitlines()]
    verbs = "clipsynth prep", "clipsynth train"
    commands = [line.removeprefix("clipsynth ") for line in lines if line.startswith(verbs)]
    return commands, next(line for line in lines if line.startswith("papermill"))


@pytest.mark.parametrize("dataset", ["music", "vggsound"])
def test_to_a_table(dataset: str, room: Path) -> None:
    commands, papermill = readme_commands(dataset)
    assert len(commands) == 5 and all("--profile paper" in command for command in commands)
    small, reports = ("--config", room / "small.yaml", "--device", "cpu"), room / "reports"
    for command in commands:  # each in a process of its own: the U-Net's training takes 7 GB
        run(BIN / "clipsynth", *command.split(), *small, CLIPSYNTH_DATA=room)
        shutil.rmtree(room / "runs", ignore_errors=True)  # gigabytes of state that nobody goes on from
    weights = room / "weights" / dataset
    made = {path.stem: load_config(path) for path in weights.glob("*.safetensors")}
    assert set(made) == {"audio-net", "mel-net", "hifigan", "clipsynth", "clipsynth-text"}
    assert made["clipsynth"]["unet"] == to_json(PAPER.unet) and made["hifigan"]["vocoder"] == to_json(PAPER.hifigan)
    assert made["clipsynth-text"]["prompt"] == TEMPLATES[dataset]
    assert made["clipsynth"]["made"]["settings"]["clip"].endswith("clip.pt")
    words = papermill.split()
    run(BIN / "papermill", words[1], room / f"{dataset}.ipynb", *words[3:], "-p", "recompute", "false",
        "-p", "settings", room / "small.yaml", "--no-progress-bar",
        CLIPSYNTH_DATA=room, CLIPSYNTH_REPORTS=reports)
    name = {"music": "", "vggsound": "-vggsound"}[dataset]  # neither overwrites the other
    table = read_table(reports / f"paper/tables/scores{name}.csv")
    ours = table.set_index(["model", "asked with"])["FAD ours"]
    assert ours["CLIPSynth-Hybrid", "text"] is ours["SpecVQGAN", "image"] is None
    there = [("CLIPSynth", "text"), ("CLIPSynth", "image"), ("CLIPSynth-Text", "text"), ("CLIPRetriever", "text")]
    assert all(ours[key] is not None for key in there)
    paper = {"music": "6.30", "vggsound": "8.68"}[dataset]
    assert f"{table['FAD paper'][0]}" in (paper, paper.rstrip("0")), "the paper's own column for this dataset"
    about = provenance(reports / "paper")[f"tables/table1{name}.csv"]
    assert about["parameters"]["settings"]["eval.samples"] == 2


def test_both_datasets_in_one_table(room: Path) -> None:
    """Without a dataset the notebook takes all that was trained on: the paper's table, as printed."""
    if len(list((room / "weights").glob("*/clipsynth.safetensors"))) < 2:
        pytest.skip("the two datasets are trained on by the tests above")
    run(BIN / "papermill", "nbs/04_eval.ipynb", room / "both.ipynb", "-p", "profile", "paper", "-p", "settings",
        room / "small.yaml", "--no-progress-bar", CLIPSYNTH_DATA=room, CLIPSYNTH_REPORTS=room / "both")
    table = read_table(room / "both/paper/tables/table1.csv")
    first = table[(table["model"] == "CLIPSynth") & (table["test query"] == "text")].iloc[0]
    assert (float(first["FAD, MUSIC"]), float(first["FAD, VGG-Sound"])) == (6.30, 8.68)
    assert first["FAD, music"] is not None and first["FAD, vggsound"] is not None
    claims = read_table(room / "both/paper/tables/claims.csv")
    assert set(claims["dataset"]) == {"music", "vggsound"} and claims["verdict"].notna().all()
