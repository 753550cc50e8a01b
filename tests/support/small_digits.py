"""experiments/digits.py with small ResNets, for tests that kill a run again and again."""

import runpy
from pathlib import Path

import small_presets  # noqa: F401
import tensorboardx_alone  # noqa: F401

runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "digits.py"), run_name="__main__")
