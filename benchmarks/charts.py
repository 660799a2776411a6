"""The charts of a run: one SVG for each of some scenarios, bars on a logarithmic scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .contenders import CONTENDERS
from .report import Samples
from .scenarios import SCENARIOS

__all__ = ["draw"]

CHARTS = {
    "single": ("p50_ms", "milliseconds from stored to awaiter resumed (median; less is better)"),
    "join-10000": ("wall_s", "seconds until all 10,000 have arrived (less is better)"),
    "join-50000": ("wall_s", "seconds until all 50,000 have arrived (less is better)"),
    "fetch-10000": ("wall_s", "seconds to get 10,000 stored results (less is better)"),
    "store-1000": ("per_s", "results stored in a second (more is better)"),
    "waiting-10000": ("kb_each", "kilobytes of a waiting handle (less is better)"),
}
OURS, RAW, OTHERS = "#1f77b4", "#999999", "#d9a679"


def draw(results: dict[str, Any], directory: Path) -> None:
    """Write a chart for each scenario of CHARTS that was measured."""
    import matplotlib

    matplotlib.use("svg")
    # The same numbers give the same file: no random ids, no date, and text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "asyncresult", "svg.fonttype": "none", "font.size": 9})
    from matplotlib import pyplot

    directory.mkdir(exist_ok=True)
    samples = Samples(results)
    titles = {scenario.name: scenario.title for scenario in SCENARIOS}
    for name, (metric, meaning) in CHARTS.items():
        bars = [
            (contender, value)
            for contender in reversed(CONTENDERS)
            if (value := samples.median(name, contender.name, metric)) is not None
        ]
        if not bars:
            continue
        figure, axes = pyplot.subplots(figsize=(7.5, 0.6 + 0.3 * len(bars)), layout="constrained")
        colours = [RAW if c.name == "raw" else OURS if c.adapter.startswith("ours") else OTHERS for c, _ in bars]
        drawn = axes.barh([contender.label for contender, _ in bars], [value for _, value in bars], color=colours)
        axes.bar_label(drawn, [f" {value:,.3g}" if value < 1000 else f" {value:,.0f}" for _, value in bars])
        axes.set_xscale("log")
        axes.set_xlabel(meaning)
        axes.set_title(titles[name], loc="left")
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
