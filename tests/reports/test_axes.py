"""What a logarithmic axis names: steps within decades where there is room, decades alone where there is not."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from reports.canvas import log_axis


@pytest.mark.parametrize(
    ("ends", "named"),
    [
        ((2.8, 30), ["5", "10", "20"]),
        ((0.05, 60), ["0.1", "1", "10"]),
    ],
)
def test_figures_along_a_logarithmic_axis(ends, named):
    figure = Figure()
    axes = figure.subplots()
    log_axis(axes, "x")
    axes.set_xlim(*ends)
    figure.canvas.draw()
    labels = axes.get_xticklabels()
    assert [label.get_text() for label in labels if ends[0] <= label.get_position()[0] <= ends[1]] == named
