"""experiments/digits.py with ResNets of one block, which compile fast, for tests that kill a run again and again."""

import dataclasses
import runpy
from pathlib import Path

import tensorboardx_alone  # noqa: F401

from seanet_jax.models import PRESETS

PRESETS["resnet20"] = dataclasses.replace(PRESETS["resnet20"], stage_sizes=(1,), widths=(8,), stem_width=4)
# One whose checkpoint does not fit into a small file.
PRESETS["wide_resnet20"] = dataclasses.replace(PRESETS["resnet20"], widths=(128,))
runpy.run_path(str(Path(__file__).parents[2] / "experiments" / "digits.py"), run_name="__main__")
