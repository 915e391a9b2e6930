"""Say in one line when this Python cannot hold clipsynth. Runs on any Python 3."""
import sys

if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit("clipsynth needs Python 3.10, 3.11 or 3.12, but %s is %d.%d: name another, make PYTHON=python3.11 ..."
             % (sys.executable, sys.version_info[0], sys.version_info[1]))
