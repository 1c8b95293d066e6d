"""Curves as a PNG. Only here is matplotlib needed, and only when a plot is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from specinfer.runtime.errors import ConfigError


def check_plots() -> None:
    """Refuse plots that cannot be drawn, before anything is measured.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise ConfigError(
            "plots are drawn by matplotlib, which is not installed: "
            '`pip install "specinfer[bench]"`'
        )


def plot(path: Path, curves: Mapping[str, Mapping[float, float]], *, x: str, y: str) -> None:
    """Draw curves (x value -> y value, by label) into a PNG.

    Args:
        path: of the file.
        curves: by label.
        x: label of the horizontal axis, which is logarithmic to base 2 if it spans a factor of 16.
        y: label of the vertical axis.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), dpi=120)
    for label, curve in curves.items():
        axes.plot(list(curve), list(curve.values()), marker="o", label=label)
    places = sorted({at for curve in curves.values() for at in curve})
    if places and places[0] > 0 and places[-1] / places[0] >= 16:
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{at:g}" for at in places])
    axes.set_ylim(bottom=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def plot_bars(path: Path, bars: Mapping[str, tuple[float, float]], *, x: str) -> None:
    """Draw horizontal bars into a PNG, the first one at the top.

    Args:
        path: of the file.
        bars: length and spread, by label.
        x: what the length is.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 1 + 0.35 * len(bars)), dpi=120)
    lengths, spreads = zip(*bars.values(), strict=True)
    axes.barh(list(bars), lengths, xerr=spreads)
    axes.invert_yaxis()
    axes.set_xlabel(x)
    axes.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
