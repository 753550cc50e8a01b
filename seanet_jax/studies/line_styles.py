"""The look of each network and of each arm, the same in every figure of the studies.

An arm is what stands in the place of the aggregates: their operation, or none.
"""

from typing import Any

from seanet_jax.style import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION

# The color and the marker of each arm. The palette of Okabe and Ito has too few colors; the others are of Tol's muted
# scheme, which can be told apart with any form of color vision as well. Operations that differ by a factor are warm.
ARMS = {
    **{"sum": (VERMILION, "D"), "mean": (ORANGE, ">"), "normalized_sum": ("#999933", "d"), "bn": ("#882255", "p")},
    **{"max": (PURPLE, "<"), "learned": ("#44AA99", "h"), "dense": ("#332288", "X"), "drop": (SKY, "v")},
    **{"random": ("#AA7744", "*"), "stages12": ("#CC6677", "8"), "none": (BLUE, "s")},
}

# The family of a network decides its color and marker, and its depth how dark the color is. The width decides the
# dashes: solid as published, dashed if wide or narrow, dotted if small. The variant of an EncapNet decides its dashes,
# and the arm of a SEANet its color and marker.
_FAMILIES = {
    **{"seanet": ARMS["sum"], "senet": ARMS["none"], "preact_resnet": (PURPLE, "^"), "resnet": (GREEN, "o")},
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


def line_style(model: str) -> dict[str, Any]:
    """Returns the keyword arguments of ``Axes.plot`` for a network. No two presets share a style.

    Args:
        model: The name of a preset. Any other name gets a black line.
    """
    bare = model.removeprefix("wide_").removeprefix("narrow_")
    family = next((family for family in _FAMILIES if bare.startswith(family)), "")
    color, marker = _FAMILIES.get(family, (BLACK, "."))
    if family == "seanet" and (arms := [arm for arm in ARMS if model.endswith(f"_{arm}")]):
        color, marker = ARMS[max(arms, key=len)]
    depth = bare.removeprefix(family).partition("_")[0]
    dashes = next((dashes for mark, dashes in _DASHES.items() if mark in model), None)
    return {
        "color": _darker(color, _DARKER.get(depth, 0.0)),
        "linestyle": "-" if dashes is None else (0, dashes),
        "marker": marker,
    }


def arm_style(arm: str) -> dict[str, Any]:
    """Returns the color and the marker of an arm, as keyword arguments of ``Axes.plot``.

    Args:
        arm: The name of an operation, or "none". Any other name is black.
    """
    color, marker = ARMS.get(arm, (BLACK, "."))
    return {"color": color, "marker": marker}


def _darker(color: str, share: float) -> str:
    """Mixes a color ``#rrggbb`` with black; ``share`` is the share of black."""
    return "#" + "".join(f"{round(int(color[i : i + 2], 16) * (1 - share)):02X}" for i in (1, 3, 5))
