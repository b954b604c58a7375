"""The page of a merged report: one HTML file that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from reports.merge.gather import Sweep, name_of
from reports.page import definitions, embedded, environment
from reports.plots import Plot
from reports.run import SMOKE
from reports.table import Table


def render(
    sweep: Sweep, name: str, parts: Mapping[str, Sequence[Table]], plots: Sequence[Plot], images: Mapping[str, bytes]
) -> str:
    """The page as text: tables by heading, the figures behind the first of them; `name` is the sweep's."""
    meanings = definitions(sweep.runs[0])
    return (
        environment()
        .get_template("merged.html")
        .render(
            name=name,
            sweep=sweep,
            smoke=SMOKE if sweep.smoke else "",
            parts=[(title, list(tables)) for title, tables in parts.items() if tables],
            plots=embedded(plots, images),
            definitions=meanings,
            manifests=[(name_of(run), json.dumps(run.manifest, indent=2, ensure_ascii=False)) for run in sweep.runs],
        )
    )
