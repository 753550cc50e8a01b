"""Draws docs/aggregate_block.svg, the figure of README: python docs/draw_block.py."""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

# Okabe and Ito's palette: one color for each group of channels.
GROUPS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7")
FACTOR = 4
INK = "#222222"
# Ids are fixed and the date is left out, so that the same drawing gives the same file.
matplotlib.rcParams.update({"svg.hashsalt": "seanet", "svg.fonttype": "path", "font.size": 10})


def box(axes, x, y, text, width=1.35, height=0.62, face="#F4F4F4"):
    """Draws a rounded box with text, centered at (x, y)."""
    corner = (x - width / 2, y - height / 2)
    style = "round,pad=0.02,rounding_size=0.1"
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle=style, fc=face, ec=INK, lw=1))
    axes.text(x, y, text, ha="center", va="center", color=INK)


def arrow(axes, start, end, **style):
    """Draws an arrow between two points."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, lw=1, **style))


def feature_map(axes, x, y, colors, label):
    """Draws channels as a stack of squares seen at an angle, centered at (x, y)."""
    step, size = 0.085, 0.62
    left = x - (size + step * (len(colors) - 1)) / 2
    for index, color in reversed(list(enumerate(colors))):
        corner = (left + step * index, y - size / 2 + step * index * 0.5 - step * len(colors) * 0.22)
        axes.add_patch(Rectangle(corner, size, size, fc=color, ec="white", lw=0.8))
    axes.text(x, y - 1.0, label, ha="center", va="center", color=INK)


def draw(path):
    """Draws the end of a stage: residual blocks with squeeze-excitation, then the aggregate layer."""
    figure, axes = plt.subplots(figsize=(9.6, 2.9), layout="constrained")
    axes.set_xlim(-0.1, 12.1)
    axes.set_ylim(-1.3, 1.9)
    axes.set_aspect("equal")
    axes.axis("off")

    axes.add_patch(FancyBboxPatch((0.1, -0.55), 6.6, 2.0, boxstyle="round,pad=0.05", fc="none", ec="#999999", ls="--"))
    axes.text(3.4, 1.62, "SE block, 3 in each stage", ha="center", color="#666666")
    box(axes, 1.35, 0, "conv 3×3\nBN, ReLU")
    box(axes, 3.0, 0, "conv 3×3\nBN")
    box(axes, 4.3, 0, "SE", width=0.75, face="#DCEBF7")
    axes.text(5.3, 0, "+", ha="center", va="center", fontsize=15, color=INK)
    arrow(axes, (-0.05, 0), (0.62, 0))
    arrow(axes, (2.07, 0), (2.28, 0))
    arrow(axes, (3.7, 0), (3.9, 0))
    arrow(axes, (4.7, 0), (5.12, 0))
    axes.plot([0.35, 0.35, 5.3], [0, 0.85, 0.85], color=INK, lw=1)
    arrow(axes, (5.3, 0.87), (5.3, 0.14))
    axes.text(2.9, 1.05, "shortcut", ha="center", va="center", color="#666666", fontsize=9)
    arrow(axes, (5.46, 0), (5.78, 0))
    box(axes, 6.18, 0, "ReLU", width=0.75)
    arrow(axes, (6.6, 0), (7.15, 0))
    feature_map(axes, 8.15, 0, [color for color in GROUPS for _ in range(FACTOR)], "C channels")
    arrow(axes, (9.15, 0), (10.55, 0))
    axes.text(9.85, 0.34, "aggregate", ha="center", weight="bold", color=INK)
    axes.text(9.85, -0.36, f"sum of {FACTOR}\nadjacent channels", ha="center", va="center", color=INK, fontsize=8.5)
    feature_map(axes, 11.15, 0, GROUPS, f"C / {FACTOR} channels")
    # A white background, because dark ink is invisible on the page of a dark mode.
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    draw(Path(__file__).parent / "aggregate_block.svg")
