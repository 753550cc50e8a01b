"""Small data sets prepared by TFDS itself, and the same ones in the format that it writes only with TensorFlow."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX.crc32c import crc32c


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """Returns the file of an image."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(file, kind)
    return file.getvalue()


def made_images(count: int, shape: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Makes images of noise."""
    return list(np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8))


def prepare(data_dir: Path, name: str, splits: dict, features: dict, config: str = "", supervised=None) -> Path:
    """Prepares a data set with TFDS, and returns its folder.

    Args:
        data_dir: The data folder.
        name: Name of the data set.
        splits: The examples of each split.
        features: The features of an example.
        config: Name of the config.
        supervised: Names of the image and label that TFDS prefers.
    """
    import tensorflow_datasets as tfds

    class Made(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.3")
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            found = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=found, supervised_keys=supervised)

        def _split_generators(self, dl_manager):
            return {split: enumerate(examples) for split, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Made.name = name
    builder = Made(data_dir=data_dir)
    builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_dir)


def to_tfrecord(folder: Path) -> Path:
    """Rewrites a prepared folder in the format TFRecord."""
    from array_record.python import array_record_module

    for path in folder.glob("*.array_record-*"):
        reader = array_record_module.ArrayRecordReader(str(path))
        write_tfrecord(path.with_name(path.name.replace("array_record", "tfrecord")), reader.read_all())
        reader.close()
        path.unlink()
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    return folder


def write_tfrecord(path: Path, records: list[bytes]) -> None:
    """Writes a file in the format TFRecord."""
    parts = []
    for record in records:
        length = len(record).to_bytes(8, "little")
        parts += [length, _checksum(length), record, _checksum(record)]
    path.write_bytes(b"".join(parts))


def _checksum(content: bytes) -> bytes:
    value = crc32c(content)
    return (((value >> 15 | value << 17) + 0xA282EAD8) % 2**32).to_bytes(4, "little")
