"""The line style of each network, the same in every figure of the studies."""

from typing import Any

from seanet_jax.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION

# The family of a network decides its color and marker, and its depth how dark the color is. The width decides the
# dashes: solid as published, dashed if wide or narrow, dotted if small. The variant of an EncapNet and of the narrow
# SEANet decides the dashes too.
_FAMILIES = {
    **{"seanet": (VERMILION, "D"), "senet": (BLUE, "s"), "preact_resnet": (PURPLE, "^"), "resnet": (GREEN, "o")},
    "encapnet": (ORANGE, "P"),
}
_DARKER = {"32": 0.2, "44": 0.4, "56": 0.6, "110": 0.8}
_DASHES = {
    "_plus_plus": (1, 1),
    "_plus": (3, 1.5),
    "_normalized_sum": (2, 1),
    "_bn": (5, 1),
    "_learned": (5, 1, 1, 1, 1, 1),
    "_dense": (1, 2),
    "_drop": (2, 3),
    "_random": (3, 1, 1, 1),
    "_stages12": (8, 2),
    "wide_": (6, 2),
    "narrow_": (3, 1.5),
    "_narrow": (3, 1.5),
    "_small": (1, 1),
    "_block": (4, 1, 1, 1),
}


def line_style(model: str) -> dict[str, Any]:
    """Returns the keyword arguments of ``Axes.plot`` for a network. No two presets share a style.

    Args:
        model: The name of a preset. Any other name gets a black line.
    """
    bare = model.removeprefix("wide_").removeprefix("narrow_")
    family = next((family for family in _FAMILIES if bare.startswith(family)), "")
    color, marker = _FAMILIES.get(family, (BLACK, "v"))
    depth = bare.removeprefix(family).partition("_")[0]
    dashes = next((dashes for mark, dashes in _DASHES.items() if mark in model), None)
    return {
        "color": _darker(color, _DARKER.get(depth, 0.0)),
        "linestyle": "-" if dashes is None else (0, dashes),
        "marker": marker,
    }


def _darker(color: str, share: float) -> str:
    """Mixes a color ``#rrggbb`` with black; ``share`` is the share of black."""
    return "#" + "".join(f"{round(int(color[i : i + 2], 16) * (1 - share)):02X}" for i in (1, 3, 5))
