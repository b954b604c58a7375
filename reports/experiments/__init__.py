"""The experiments on the runtime: a run whose configuration names a study has its section in the report."""

from __future__ import annotations

import matplotlib as mpl

from reports import style
from reports.experiments import (
    aa,
    ablation,
    attribution,
    background_capture,
    capture_coverage,
    coverage_policies,
    floor,
    ipc,
    rolling,
    telemetry,
)
from reports.experiments.section import Section
from reports.run import Run

STUDIES = {
    "capture_coverage": capture_coverage.section,
    "coverage_policies": coverage_policies.section,
    "rolling": rolling.section,
    "background_capture": background_capture.section,
    "ipc": ipc.section,
    "ablation": ablation.section,
    "floor": floor.section,
    "attribution": attribution.section,
    "aa": aa.section,
    "telemetry": telemetry.section,
}


def section(run: Run) -> Section | None:
    """The section of the run's study, None for a run that is none. Raises ValueError on a study unknown here."""
    if not run.study:
        return None
    if run.study not in STUDIES:
        raise ValueError(f"manifest.json names the study {run.study}, which is none of {', '.join(STUDIES)}")
    with mpl.rc_context(style.RC):
        return STUDIES[run.study](run)
