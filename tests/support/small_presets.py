"""Makes ResNets ones of a single block, which compile fast, where it is imported."""

import dataclasses

from seanet_jax.models import PRESETS

PRESETS["resnet20"] = dataclasses.replace(PRESETS["resnet20"], stage_sizes=(1,), widths=(8,), stem_width=4)
# One whose checkpoint does not fit into a small file.
PRESETS["wide_resnet20"] = dataclasses.replace(PRESETS["resnet20"], widths=(128,))
