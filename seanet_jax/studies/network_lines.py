"""How networks look in the figures of the studies: one line per network."""

from typing import Any

from seanet_jax.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION

# A network's family decides its colour and marker, its width the line: solid as published, dashed wide or narrow,
# dotted small; of EncapNet, what it has in addition. The deeper, the darker.
_FAMILIES = {
    **{"seanet": (VERMILION, "D"), "senet": (BLUE, "s"), "preact_resnet": (PURPLE, "^"), "resnet": (GREEN, "o")},
    "encapnet": (ORANGE, "P"),
}
_DARKER = {"32": 0.2, "44": 0.4, "56": 0.6, "110": 0.8}
_DASHES = {
    "_plus_plus": (1, 1),
    "_plus": (3, 1.5),
    "wide_": (6, 2),
    "narrow_": (3, 1.5),
    "_narrow": (3, 1.5),
    "_small": (1, 1),
    "_block": (4, 1, 1, 1),
}


def line_of(model: str) -> dict[str, Any]:
    """Keywords of ``Axes.plot`` for a network: the same in every figure, and another for every preset.

    Args:
        model: name of a preset; one of another name is black.
    """
    bare = model.removeprefix("wide_").removeprefix("narrow_")
    family = next((family for family in _FAMILIES if bare.startswith(family)), "")
    colour, marker = _FAMILIES.get(family, (BLACK, "v"))
    depth = bare.removeprefix(family).partition("_")[0]
    dashes = next((dashes for mark, dashes in _DASHES.items() if mark in model), None)
    return {
        "color": _darker(colour, _DARKER.get(depth, 0.0)),
        "linestyle": "-" if dashes is None else (0, dashes),
        "marker": marker,
    }


def _darker(colour: str, share: float) -> str:
    """A colour ``#rrggbb`` mixed with a share of black."""
    return "#" + "".join(f"{round(int(colour[i : i + 2], 16) * (1 - share)):02X}" for i in (1, 3, 5))
