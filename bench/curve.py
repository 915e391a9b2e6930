"""How good a diffusion model is against the computing that went into it: bench/results/curve.json.

It reads states of trainings that were copied on their way, FOLDER/WORLD/MODEL-STEP.pt (`state.pt` of a run, or
`plateau.pt`), and looks at the averaged weights of each as `bench/screening.py` does: the error of the velocity on test
windows with always the same noise, and how often MelNet and the independent probe see the class that was asked for in
the mels of test pictures. A row that is there is not made again, unless the world or its MelNet has changed.
Core-seconds are the steps times the computing time of one step in float32, timed here on one thread (once for each
model and world): what the training's own clock says depends on what else the machine did. (bfloat16, on a CPU that
computes in it, takes two thirds of that.) 03_train shows the results.

Usage: python bench/curve.py FOLDER [--world NAME ...] [--profile mini]   (about 15 core-seconds a state)
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch
from screening import ASKED, DATASET, EVALUATIONS, LEVELS, WINDOWS, HeldOut
from timing import machine, save

from clipsynth.base.config import DiffusionConfig, Profile, UNetConfig, from_json
from clipsynth.base.places import weights_file
from clipsynth.base.profiles import profile
from clipsynth.engine.publish import certificate
from clipsynth.engine.train import make_trainer
from clipsynth.model.unet import UNet
from clipsynth.results.measurements import IndependentProbe, independent_probe
from clipsynth.results.metric_nets import embed_all, heard_classes

RESULTS = Path(__file__).parent / "results" / "curve.json"
TIMED = 6  # steps that are timed, after one to warm up
Row = dict[str, object]


def step_seconds(model: str, world: str, chosen: Profile) -> float:
    """Core-seconds of one training step: the median of a few."""
    trainer, times = make_trainer(model, world, chosen, "cpu", {"precision": "fp32"}), []
    for _ in range(1 + TIMED):
        began = time.process_time()
        trainer.update()
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


def of_seed(model: str) -> str:
    """The model that a second training is of: its steps cost the same."""
    return model.partition("-seed")[0]


def network(state: dict, held_out: HeldOut) -> torch.nn.Module:
    """The averaged weights of a state as a network; a state of another world or process is refused."""
    task = state["about"]["task"]
    if task["store"] != held_out.store.digest:
        raise ValueError(f"learned from store {task['store']}, this one is {held_out.store.digest}")
    if from_json(DiffusionConfig, task["diffusion"]) != held_out.diffusion.config:
        raise ValueError("has another diffusion process than the profile")
    unet = UNet(from_json(UNetConfig, task["unet"])).eval()
    unet.load_state_dict(state["average"] or state["modules"]["unet"])
    return unet


def looked_at(state: dict, held_out: HeldOut, probe: IndependentProbe) -> Row:
    """Errors and accuracies of a state."""
    unet = network(state, held_out)
    mels = held_out.sampled(unet, ASKED)
    row: Row = {"wall_seconds": state["seconds"], **held_out.errors(unet), "asked": len(mels)}
    row["mel-net"] = held_out.right(heard_classes(held_out.mel_net, embed_all(held_out.mel_net, mels)))
    row["probe"] = held_out.right(probe.classify(mels[:, 0].numpy()))
    return row


def snapshots(folder: Path) -> list[tuple[str, int, Path]]:  # model, step, file
    """The states of a world in a folder, by step, of the models that learned from pictures."""
    named = [(*path.stem.rpartition("-")[::2], path) for path in folder.glob("*-*.pt")]
    shown = [one for one in named if one[1].isdigit() and not one[0].startswith("clipsynth-text")]  # it saw no picture
    return sorted((model, int(step), path) for model, step, path in shown)


def measure(world: str, folder: Path, chosen: Profile, most: int, results: Path) -> None:
    """Add the rows of a world that are missing, each as soon as it is made."""
    there = snapshots(folder / world)
    if not there:
        return print(f"{world}: no states in {folder / world}")
    held_out = HeldOut(world, chosen)
    net = certificate(weights_file(chosen, world, "mel-net"))["sha256"]
    inputs = {"profile": chosen.name, "store": held_out.store.digest, "mel-net": net}
    old = json.loads(results.read_text()) if results.exists() else {"inputs": {}, "rows": []}
    rows = [row for row in old["rows"] if row["world"] != world or old["inputs"].get(world) == inputs]
    done = {(row["model"], row["step"]) for row in rows if row["world"] == world}
    cost = {of_seed(row["model"]): row["step_core_seconds"] for row in rows if row["world"] == world}
    wanted = [one for one in there if one[:2] not in done][:most]
    probe = independent_probe(held_out.store) if wanted else None
    for model, step, path in wanted:
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            found = looked_at(state, held_out, probe)
        except Exception as error:  # half a file, or of another world: the others matter no less
            print(f"{path}: {error}", file=sys.stderr)
            continue
        name = of_seed(model)
        if name not in cost:
            cost[name] = step_seconds(name, world, chosen)
        row = {"world": world, "model": model, "step": step, "core_seconds": step * cost[name]}
        row |= {"step_core_seconds": cost[name], **found}
        rows.append(row)
        rows.sort(key=lambda row: (row["world"], row["model"], row["step"]))
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
        how = {"levels": LEVELS, "windows": WINDOWS, "asked with": "pictures", "evaluations": EVALUATIONS}
        everywhere = {**old["inputs"], world: inputs}
        about = {"command": "python bench/curve.py FOLDER", "with": machine(), "how": how, "inputs": everywhere}
        save(results, {**about, "rows": rows})


def main() -> None:
    """Look at every state that was not looked at."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a folder for each world")
    parser.add_argument("--world", nargs="+", default=[DATASET, "mini-vggsound"])
    parser.add_argument("--profile", default="mini")
    parser.add_argument("--most", type=int, default=10**6, help="rows of each world to make in this call")
    parser.add_argument("--to", type=Path, default=RESULTS, help="the file of the results")
    words = parser.parse_args()
    torch.set_num_threads(1)
    for world in words.world:
        measure(world, words.folder, profile(words.profile), words.most, words.to)


if __name__ == "__main__":
    main()
