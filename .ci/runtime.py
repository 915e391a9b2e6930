"""Fetch what the page without Python runs on, so that its tests need no network; goes on where there is none."""
import sys

from clipsynth.base.process import UserError
from clipsynth.engine.browser_page import runtime_archive

try:
    runtime_archive()
except UserError as error:
    print(f"{error}; until then the tests of the page without Python are skipped", file=sys.stderr)
