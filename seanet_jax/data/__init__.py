"""Image classification data sets, read into memory without TensorFlow.

To add a data set, describe it by a `DatasetSource`, whose `load` returns a `Dataset`, and pass it to
`register_dataset`. Its name is then accepted by `load`, by `seanet_jax.training.TrainConfig` and by every `--dataset`
flag. A package that names a module in the entry-point group `seanet_jax.plugins` needs no import on the user's side:
the module is imported when a name is unknown, and registers its data sets then.

`from_arrays` makes a `Dataset` of NumPy arrays, without a name in the table.
"""

from seanet_jax.data.arrays import from_arrays
from seanet_jax.data.dataset import Dataset
from seanet_jax.data.registry import DATASETS, find_source, image_spec, is_known, load, register_dataset, train_count
from seanet_jax.data.source import DatasetSource

__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetSource",
    "find_source",
    "from_arrays",
    "image_spec",
    "is_known",
    "load",
    "register_dataset",
    "train_count",
]
