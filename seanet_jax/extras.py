"""Says which of this package's extras brings a package that is missing."""

import importlib.metadata
import re
from collections.abc import Iterator

# Distributions whose modules have another name.
_DISTRIBUTIONS = {"PIL": "pillow", "orbax": "orbax-checkpoint", "sklearn": "scikit-learn"}

_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[([\w-]+)\])?([^;]*?)\s*(?:;.*\bextra == ['\"]([\w-]+)['\"].*)?")


def explain(error: ModuleNotFoundError, user: str, extra: str) -> str | None:
    """Returns a sentence that says how to get the missing package.

    It names no index: nothing says that this package's name on an index is this package.

    Args:
        error: What importing the missing module raised.
        user: Name of what needs the module, for example "seanet train".
        extra: Name of the extra that brings everything ``user`` needs; it is the one to install if it brings the
            missing package.

    Returns:
        The sentence, without a full stop; None if no extra of this package brings the module.
    """
    module = (error.name or "").partition(".")[0]
    package = _normalize(_DISTRIBUTIONS.get(module, module))
    for candidate in (extra, *_all()):
        for name, versions in _requirements(candidate):
            if _normalize(name) == package:
                return (
                    f"{user} needs {name}, which is not installed; it is in the extra {candidate!r} of seanet_jax: "
                    f"install that, or {name}{versions} itself"
                )
    return None


def is_installed(extra: str) -> bool:
    """Whether every distribution of an extra is installed, whatever its version."""
    return all(_is_present(name) for name, _ in _requirements(extra))


def _is_present(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _declared() -> list[tuple[str, str, str, str]]:
    """Name, extra that is asked of it, versions, and this package's extra that it belongs to; empty where none."""
    try:
        lines = importlib.metadata.requires("seanet-jax") or []
    except importlib.metadata.PackageNotFoundError:  # imported from a folder, without having been installed
        lines = []
    matches = (_REQUIREMENT.fullmatch(line) for line in lines)
    return [tuple(group or "" for group in match.groups()) for match in matches if match]  # type: ignore[misc]


def _all() -> list[str]:
    """The names of all extras, in the order of pyproject.toml."""
    return list(dict.fromkeys(extra for *_, extra in _declared() if extra))


def _requirements(extra: str) -> Iterator[tuple[str, str]]:
    """The distributions of an extra and their versions, with those of the extras that it includes."""
    for name, asked, versions, owner in _declared():
        if owner == extra and _normalize(name) == "seanet-jax":
            yield from _requirements(asked)
        elif owner == extra:
            yield name, versions


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
