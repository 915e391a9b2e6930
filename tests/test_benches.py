"""The benchmarks of our own code run, at sizes at which nothing is measured: a bench that nobody runs rots."""
import sys

import pytest
from conftest import ROOT, run, state


@pytest.mark.parametrize("words", [("model.py", "voices"), ("train.py", "outside", "batch")], ids=" ".join)
def test_a_tiny_run_writes_nothing(words: tuple[str, ...]) -> None:
    script, *parts = words
    before = state("bench")
    said = run(sys.executable, ROOT / "bench" / script, "--tiny", "--only", *parts).stdout
    assert said.count("{") >= len(parts) and state("bench") == before
