"""Runs on several devices and of several workers, compared with runs on one device."""

import pathlib
import sys

# For `tiny_data` and others, which `pytest` finds by itself.
sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))
