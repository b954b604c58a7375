"""The page of a run: one HTML file that needs nothing else, neither network nor files."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from reports.definitions import definitions
from reports.experiments.section import Section
from reports.plots import Plot
from reports.run import SMOKE, Run
from reports.table import Table

PARTS = (
    ("Time to first token", ("ttft",)),
    ("Summary", ("summary",)),
    ("Tail and decode", ("p99", "decode")),
    ("Against each other", ("speedup", "significance")),
    ("JIT and graphs: effects and interaction", ("effects",)),
    ("Against the floor", ("ttft_ratio", "headroom")),
    ("Block by block", ("blocks",)),
    ("Where the time goes", ("clocks",)),
    ("Do the cases compute the same?", ("equivalence", "divergence")),
    ("Who answered?", ("identity",)),
    ("On what machine?", ("machine", "energy")),
)
"""The general tables by heading; the figures stand behind the summary."""


def environment() -> Environment:
    """The templates of pages; what they are given is escaped, and a name that they don't know is an error."""
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def embedded(plots: Sequence[Plot], images: Mapping[str, bytes]) -> list[tuple[Plot, str]]:
    """Each plot with its PNG as the text that goes inside a page."""
    return [(plot, base64.b64encode(images[plot.name]).decode("ascii")) for plot in plots]


def render(
    run: Run, tables: list[Table], plots: list[Plot], images: Mapping[str, bytes], study: Section | None = None
) -> str:
    """The page as text, an experiment's section first.

    Titles and reasons are escaped; `images`, PNGs by the plot's name, are put inside.
    """
    named = {table.name: table for table in tables}
    order = [(title, [named[name] for name in names if name in named]) for title, names in PARTS]

    return (
        environment()
        .get_template("template.html")
        .render(
            run=run,
            smoke=SMOKE if run.smoke else "",
            parts=[(title, found) for title, found in order if found],
            status=named["status"],
            plots=embedded(plots, images),
            study=study,
            study_plots=embedded(study.plots, images) if study else [],
            definitions=definitions(run),
            manifest=json.dumps(run.manifest, indent=2, ensure_ascii=False),
        )
    )
