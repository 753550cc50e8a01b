"""Trained networks that come with the package, by name.

A name is that of the preset and of the data set, as in ``seanet20_narrow-digits``. Each network is a folder beside
this file, as ``Network.save_pretrained`` writes it. It has float16 weights, and a model card, ``README.md``, which says
how the network was trained and what it reaches. ``experiments/bundle.py`` writes such a folder.
"""

from pathlib import Path

from seanet_jax.errors import InputError, did_you_mean
from seanet_jax.paths import UserPath, exists, user_path
from seanet_jax.printable import printable

_HERE = Path(__file__).parent


def list_bundled() -> list[str]:
    """Returns the names of the networks that come with the package, sorted."""
    return sorted(path.parent.name for path in _HERE.glob("*/config.json"))


def find_folder(folder: UserPath) -> Path:
    """Returns the folder that a user names by its path, or by the name of a network that comes with the package.

    Args:
        folder: A path or a name. A folder of the user's comes before a network of the same name.

    Raises:
        InputError: If it is a bare name, there is no such folder, and no such network comes with the package.
    """
    path = user_path(folder)
    if len(path.parts) != 1 or exists(path):
        return path
    name, known = path.name, list_bundled()
    if name not in known:
        hint = did_you_mean(name, known)
        raise InputError(
            f"{printable(name)} is neither a folder nor a network that comes with the package; those are "
            f"{', '.join(known)}{hint and f'; {hint}'}"
        )
    return _HERE / name


def bundled_name(folder: Path) -> str | None:
    """Returns the name of the network whose folder ``find_folder`` returned, or None for a folder of the user's."""
    return folder.name if folder.parent == _HERE else None


def trained_on(name: str) -> str:
    """Returns the name of the data set on which a network that comes with the package was trained."""
    return name.rpartition("-")[2]
