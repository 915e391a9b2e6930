"""What the benchmarks share: clocks, taking turns, memory of a fresh process, and what machine it was."""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from clipsynth.base.files import write_text

Times = dict[str, list[float]]  # by way, seconds of every round


def clock() -> float:
    """Seconds: on one CPU thread what this process computed, which a busy machine stretches least; else the wall's."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def spent(work: Callable, *arguments: object) -> float:
    """Seconds that a call takes on the wall's clock."""
    began = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - began


def in_turns(ways: dict[str, Callable], rounds: int, warm: int = 1) -> Times:
    """Seconds of each way, A B C A B C ..., so that what else goes on meets all alike; first some rounds to warm up."""
    times: Times = {name: [] for name in ways}
    for turn in range(-warm, rounds):
        for name, way in ways.items():
            began = clock()
            way()
            if turn >= 0:
                times[name].append(clock() - began)
    return times


def medians(times: Times) -> dict[str, float]:
    """The median seconds of each way."""
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def times_faster(times: Times, slow: str, fast: str) -> float:
    """How many times faster one way is than another: the median over rounds."""
    return statistics.median(a / b for a, b in zip(times[slow], times[fast], strict=True))


def peak_megabytes(work: Callable) -> float:
    """By how much a call raises the memory of this process, or of the GPU, at most; for a process that is fresh."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    status = Path("/proc/self/status")  # not getrusage, which begins with what the parent had when it forked
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here

    def kilobytes(name: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(name))

    before = kilobytes("VmRSS:")
    work()
    return (kilobytes("VmHWM:") - before) * 1024 / 1e6


def in_fresh_process(script: str, **words: object) -> dict:
    """What `script --child` prints, as JSON, for some words."""
    command = [sys.executable, script, "--child", json.dumps(words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def cpu_name() -> str:
    """What the machine calls its processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def machine() -> dict[str, object]:
    """What the results were measured with."""
    from clipsynth.data.workers import cores

    about: dict[str, object] = {"machine": cpu_name(), "cores": cores(), "torch": torch.__version__}
    if torch.cuda.is_available():
        about["gpu"] = torch.cuda.get_device_name()
    return about | {"made": time.strftime("%Y-%m-%d")}


def save(path: Path, result: dict) -> None:
    """Write results with four digits."""
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    write_text(path, json.dumps(rounded, indent=1) + "\n")
    print(f"written to {path}")
