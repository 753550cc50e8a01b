"""The page that shows what happens inside a network for one image, without scripts or network requests."""

import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from seanet_jax import style
from seanet_jax.data.image_file import ImageSource, check_picture_channels, open_image, preview, to_pixels
from seanet_jax.errors import InputError
from seanet_jax.inference.contact_sheet import SIDE
from seanet_jax.inference.html_page import data_uri, embedded_svg, render
from seanet_jax.inference.inspection import Aggregated, Inspection, inspect
from seanet_jax.inference.inspection_pictures import (
    excitation_figure,
    gradient,
    map_picture,
    plain_picture,
    seen_picture,
)
from seanet_jax.inference.trained import Trained
from seanet_jax.layers.aggregates import AggregateKind

_GROUPS = 6
# With more aggregates than this, they are folded away.
_MOST_OPEN = 4

# How an aggregate of each kind reduces the k channels of a group.
_RULES: dict[AggregateKind, str] = {
    "sum": "Each group of {k} adjacent channels is added up.",
    "mean": "Each group of {k} adjacent channels is averaged.",
    "max": "Each pixel is the largest value of {k} adjacent channels.",
    "normalized_sum": "Each group of {k} adjacent channels is added up and divided by the square root of {k}.",
    "drop": "Of each group of {k} adjacent channels, the first is kept and the others are dropped.",
    "random": "Each group of {k} channels is added up. The groups were drawn at random before the training.",
    "learned": "Each group of {k} adjacent channels is added up, each times the learned weight below its map.",
    "dense": "Each channel after it adds up all {channels} channels, each times a learned weight. Before it, the {k} "
    "channels of the largest weights are shown, with these below the maps.",
}


def inspect_file(
    trained: Trained, source: ImageSource, top: int, *, network: str, command: str
) -> tuple[Inspection, str]:
    """Classifies an image file, and returns what happens inside the network and the page that shows it.

    Args:
        trained: The network and the specification of its images.
        source: The image.
        top: Number of classes, if the network has as many.
        network: Name of the network.
        command: Command line that makes the page.

    Raises:
        InputError: If the image cannot be read, if the network does not take gray or RGB images, or if a score is not
            finite.
    """
    images = trained.images
    check_picture_channels(images)
    try:
        with open_image(source, smallest=max(images.height, images.width)) as image:
            picture, pixels = preview(image, images, SIDE), to_pixels(image, images)
    except InputError as error:
        raise InputError(f"{error}; name another file") from None
    found = inspect(trained, pixels, top)
    name = source.path.name
    return found, inspection_page(found, picture, pixels, image=name, network=network, command=command)


def inspection_page(
    found: Inspection, picture: Image.Image, pixels: np.ndarray, *, image: str, network: str, command: str
) -> str:
    """Returns the HTML of the page. Names are escaped, so they cannot add markup.

    Args:
        found: What happens inside the network.
        picture: The part of the image that the network sees, for people.
        pixels: The same as the network sees it, uint8 ``[H, W, C]``.
        image: Name of the image.
        network: Name of the network.
        command: Command line that makes the page.
    """
    seen = itertools.repeat(None) if found.grad_cam is None else found.grad_cam
    return render(
        "inspection.html.jinja",
        image=image,
        network=network,
        command=command,
        gradient=gradient(),
        size=f"{pixels.shape[1]} x {pixels.shape[0]}",
        picture=data_uri(plain_picture(picture), "image/png"),
        pixels=data_uri(plain_picture(_as_image(pixels)), "image/png"),
        classes=[
            {"name": name, "probability": probability, "seen": None if values is None else _seen(picture, values)}
            for (name, probability), values in zip(found.classes, seen, strict=False)
        ],
        seen_size=None if found.grad_cam is None else f"{found.grad_cam.shape[2]} x {found.grad_cam.shape[1]}",
        aggregates=[_aggregate(one) for one in found.aggregates],
        most_open=_MOST_OPEN,
        stages=_stages(found.excitations),
    )


def _as_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0]).convert("RGB")


def _seen(picture: Image.Image, values: np.ndarray) -> dict[str, Any]:
    largest = float(values.max())
    return {"uri": data_uri(seen_picture(picture, values), "image/png"), "largest": f"{largest:.3g}"}


def _place(path: str) -> tuple[str, str]:
    """Returns the stage and the block of a module of a SEANet, such as ("Stage 1", "block 2"), or its path and ""."""
    if match := re.fullmatch(r"stages\.(\d+)(?:\.blocks\.(\d+))?\.\w+", path):
        stage, block = match.groups()
        return f"Stage {int(stage) + 1}", "" if block is None else f"block {int(block) + 1}"
    return path, ""


def _aggregate(one: Aggregated) -> dict[str, Any]:
    """Returns what the template shows of an aggregate: the groups whose map after it has the largest mean."""
    channels, after = one.before.shape[-1], one.after.shape[-1]
    stage, block = _place(one.path)
    largest = np.argsort(-one.after.mean((0, 1)), kind="stable")[:_GROUPS]
    return {
        "name": f"{stage}, {block}" if block else stage,
        "channels": channels,
        "after": after,
        "size": f"{one.before.shape[1]} x {one.before.shape[0]}",
        "rule": _RULES[one.kind].format(k=channels // after, channels=channels),
        "normalized": one.normalized,
        "groups": [_group(one, number) for number in largest],
    }


def _group(one: Aggregated, number: int) -> dict[str, Any]:
    """Returns the maps of a group before and after an aggregate, on one scale."""
    members, weights = one.groups[number], None if one.weights is None else one.weights[number]
    shown = one.before.shape[-1] // one.after.shape[-1]
    if weights is not None and len(members) > shown:
        heaviest = np.sort(np.argsort(-abs(weights), kind="stable")[:shown])
        members, weights = members[heaviest], weights[heaviest]
    before, after = one.before[..., members], one.after[..., number]
    low = min(0.0, float(before.min()), float(after.min()))
    high = max(float(before.max()), float(after.max()))

    def drawn(values: np.ndarray, label: str, words: str) -> dict[str, str]:
        alt = f"{words}, from {values.min():.3g} to {values.max():.3g}"
        return {"uri": data_uri(map_picture(values, low, high), "image/png"), "label": label, "alt": alt}

    labels = [f"{member}" if weights is None else f"{member} × {weights[at]:.2g}" for at, member in enumerate(members)]
    return {
        "low": f"{low:.3g}",
        "high": f"{high:.3g}",
        "before": [
            drawn(before[..., at], label, f"Channel {members[at]} before the aggregate")
            for at, label in enumerate(labels)
        ],
        "after": drawn(after, f"→ {number}", f"Channel {number} after the aggregate"),
    }


def _stages(excitations: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Returns what the template shows of the squeeze-excitations of each stage."""
    places = {path: _place(path) for path in excitations}
    found = []
    for stage, paths in itertools.groupby(excitations, lambda path: places[path][0]):
        weights = {places[path][1] or stage: excitations[path] for path in paths}
        figure = embedded_svg(
            style.svg(excitation_figure(weights)),
            f"Weights of the channels in {stage}, sorted, a line for each of {len(weights)} blocks",
        )
        rows = [
            {
                "name": name,
                "smallest": f"{values.min():.3f}",
                "mean": f"{values.mean():.3f}",
                "largest": f"{values.max():.3f}",
            }
            for name, values in weights.items()
        ]
        found.append({"name": stage, "figure": figure, "rows": rows})
    return found
