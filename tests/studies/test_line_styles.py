"""Every preset has a line style of its own; a family shares color and marker."""

from seanet_jax import style
from seanet_jax.models import PRESETS
from seanet_jax.studies.line_styles import ARMS, arm_style, line_style


def test_every_preset_has_a_line_style_its_own():
    lines = {model: line_style(model) for model in PRESETS}
    assert len({(line["color"], line["linestyle"]) for line in lines.values()}) == len(PRESETS)
    assert all(lines[model] == line_style(model) for model in PRESETS)
    aggregates = {name for name, config in PRESETS.items() if getattr(config, "aggregate_placement", "none") != "none"}
    markers = {marker for arm, (_, marker) in ARMS.items() if arm != "none"}
    assert {model for model, line in lines.items() if line["marker"] in markers} == aggregates
    assert {model for model in aggregates if lines[model]["marker"] != "D"} == {
        f"seanet20_narrow_{arm}" for arm in ARMS if f"seanet20_narrow_{arm}" in PRESETS
    }
    assert line_style("mine") == {"color": style.BLACK, "linestyle": "-", "marker": "."}
    assert line_style("seanet20")["color"] == style.VERMILION


def test_an_arm_looks_alike_wherever_it_is_drawn():
    assert len({color for color, _ in ARMS.values()}) == len({marker for _, marker in ARMS.values()}) == len(ARMS)
    for model, arm in (("seanet20_narrow", "sum"), ("narrow_senet20", "none"), ("seanet20_narrow_learned", "learned")):
        assert {name: line_style(model)[name] for name in ("color", "marker")} == arm_style(arm)
    # The name of the one ends in that of the other.
    assert line_style("seanet20_narrow_normalized_sum")["color"] == ARMS["normalized_sum"][0]
    assert arm_style("mine") == {"color": style.BLACK, "marker": "."}


def test_deeper_networks_are_darker():
    colors = [line_style(f"resnet{depth}")["color"] for depth in (20, 32, 44, 56, 110)]
    green = [int(color[3:5], 16) for color in colors]
    assert green == sorted(green, reverse=True) and len(set(green)) == 5
    assert line_style("resnet32")["color"] == "#007E5C"  # #009E73, and a fifth of black
