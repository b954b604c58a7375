import io
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import schema
from harness.output import statistics
from reports import blockwise, experiments, markup
from reports.__main__ import main, tables_of, write_report
from reports.experiments import ablation, capture_coverage, coverage_policies, floor, ipc, rolling
from reports.experiments import background_capture as background
from reports.quantiles import quantile, ratio
from reports.run import SMOKE, load
from tests.reports import studies

FIGURES = {
    "aa": ["aa"],
    "telemetry": ["telemetry"],
    "capture_coverage": ["capture_coverage"],
    "coverage_policies": ["coverage_policies"],
    "rolling": ["rolling_hits", "rolling_memory", "rolling_ecdf"],
    "background_capture": ["background_capture"],
    "ipc": ["ipc"],
    "ablation": ["ablation"],
    "floor": ["floor"],
}
FEW = {
    "coverage_policies": {"lengths": range(1, 51)},
    "rolling": {"requests": 1200},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One invented run an experiment."""
    root = tmp_path_factory.mktemp("studies")
    with pytest.MonkeyPatch.context() as patch:
        return {name: make(root / name, patch, **FEW.get(name, {})) for name, make in studies.MAKERS.items()}


def record(rows, **wanted):
    return next(row for row in rows if all(row.get(key) == value for key, value in wanted.items()))


def cells(table):
    return [[cell.text for cell in row] for row in table.rows]


@pytest.mark.parametrize("name", studies.MAKERS)
def test_a_study_has_its_section_first_from_the_files_alone(runs, tmp_path, name, capsys):
    path = studies.copy(runs[name], tmp_path / "run")
    assert main([str(path)]) == 0
    section = experiments.section(load(path))
    assert section.tables[0].title in capsys.readouterr().out
    written = {file.name for file in (path / "report").iterdir()}
    assert {f"{table.name}.{suffix}" for table in section.tables for suffix in ("md", "csv", "tex")} <= written
    assert {f"{figure}.{suffix}" for figure in FIGURES[name] for suffix in ("png", "pdf")} <= written
    page = (path / "report" / "report.html").read_text()
    assert page.index("<h2>") == page.index(f"<h2>{section.title}</h2>")
    for table in section.tables:  # made twice from the same files: the draws of the bootstrap are seeded
        assert (path / "report" / f"{table.name}.csv").read_text() == table.csv()


@pytest.mark.parametrize("name", studies.MAKERS)
def test_a_study_says_where_and_how_it_was_measured(runs, name):
    section = experiments.section(load(runs[name]))
    for table in section.tables:
        assert "Invented GPU" in table.facts
        assert " n = " in table.facts
        rows = [line for line in markup.markdown(table).splitlines() if line.startswith("|")]
        assert len(rows) == len(table.rows) + 2


def test_a_smoke_study_is_stamped(tmp_path, monkeypatch):
    path = studies.capture_coverage(tmp_path / "run", monkeypatch, smoke=True)
    section = experiments.section(load(path))
    texts = [text.get_text() for plot in section.plots for axes in plot.figure.axes for text in axes.texts]
    assert SMOKE in texts
    assert SMOKE in markup.markdown(section.tables[0])


def test_an_unknown_study_is_one_sentence(runs, tmp_path, capsys):
    path = studies.copy(runs["ablation"], tmp_path / "run")
    studies.change_config(path, study="weather")
    assert main([str(path)]) == 2
    assert "study weather, which is none of capture_coverage" in capsys.readouterr().err


def test_a_run_that_is_no_study_has_no_section(stored):
    assert experiments.section(stored) is None


@pytest.mark.parametrize("name", studies.MAKERS)
def test_a_study_in_which_nothing_ran_still_has_its_report(runs, tmp_path, name):
    path = studies.copy(runs[name], tmp_path / "run")
    for file in ("captures", "eviction", "memory"):
        (path / f"{file}.csv").unlink(missing_ok=True)
    for file in ("samples", "ttft", "p99", "decode", "equivalence"):
        keep_head(path / f"{file}.csv")
    status = pd.read_csv(path / "status.csv").astype({"reason": object})
    status.assign(state="failed", reason="out of luck").to_csv(path / "status.csv", index=False)
    run = load(path)
    section = experiments.section(run)
    assert write_report(run, tables_of(run), section).is_file()
    assert all(plot.figure is None and plot.reason for plot in section.plots)
    notes = " ".join(text for _, text in section.tables[0].notes.lines()) + section.tables[0].facts
    assert "out of luck" in notes


def keep_head(path):
    path.write_text(path.read_text().splitlines()[0] + "\n")


def test_quantiles_are_those_of_the_summaries():
    rng = np.random.default_rng(5)
    for n in (1, 5, 6, 40, 367, 368, 1000):
        values = rng.gamma(3, size=n)
        for p in (0.5, 0.99):
            ours, theirs = quantile(pd.Series(values), p), statistics.quantile(values, p)
            assert math.isnan(ours.value) == (not theirs.supported)
            if theirs.supported:
                assert tuple(ours) == tuple(theirs)


def test_a_p99_needs_368_samples():
    values = pd.Series(np.arange(368.0))
    assert math.isnan(quantile(values[:367], 0.99).value)
    assert quantile(values, 0.99) == (364.0, 359.0, 367.0)


def test_a_ratio_has_the_same_interval_every_time_and_one_against_itself():
    values = pd.Series(np.random.default_rng(1).gamma(9, size=500))
    p99 = quantile(values, 0.99)
    found = ratio(p99, p99, values, values, 0.99, seed=7)
    assert found == ratio(p99, p99, values, values, 0.99, seed=7)
    assert found.value == 1.0
    assert found.low < 1.0 < found.high


def test_capture_coverage_counts_failures_and_what_eviction_returned(runs):
    run = load(runs["capture_coverage"])
    shared, each = (capture_coverage.record(run, case) for case in run.cases)
    assert (shared["asked"], shared["captured"]) == (500, 500)
    assert math.isnan(shared["first_failure"])
    assert shared["seconds"] == pytest.approx(10.0)
    assert shared["median_ms"] == pytest.approx(20.0)
    assert shared["memory_gib"] == pytest.approx(501 * 2 / 1024)
    assert shared["returned_share"] == pytest.approx(992 / 1002)
    assert (each["captured"], each["first_failure"]) == (380, 120)
    published = cells(capture_coverage.table(run))[-1]
    assert published[:3] == ["Published", "406 of 500", "407: out of memory"]
    assert published[5] == "14.42"


@given(st.sets(st.integers(1, 60), min_size=1), st.lists(st.integers(1, 60), min_size=1))
def test_padding_is_the_mean_way_to_the_next_edge(edges, lengths):
    found = coverage_policies.padding(list(edges), lengths)
    if max(lengths) > max(edges):
        assert math.isnan(found)
    else:
        wanted = [min(edge for edge in edges if edge >= length) - length for length in lengths]
        assert found == pytest.approx(sum(wanted) / len(wanted))


def test_coverage_policies_stand_beside_the_published(runs):
    run = load(runs["coverage_policies"])
    rows = {case: coverage_policies.record(run, case) for case in run.cases}
    assert [row["graphs"] for row in rows.values()] == [500, 50, 10, 32]
    assert rows["full"]["padding"] == 0
    assert rows["every_10th"]["padding"] == pytest.approx(4.5)
    assert (rows["pow2"]["published_graphs"], rows["pow2"]["published_mean_ms"]) == (9, 18.76)
    assert math.isnan(rows["step_16"]["published_graphs"])
    own = run.samples[(run.samples["case"] == "full") & (run.samples["metric"] == "ttft")]["host_ms"]
    assert rows["full"]["mean_ms"] == pytest.approx(own.mean())


def test_many_lengths_are_left_to_the_csv(runs, tmp_path):
    path = studies.copy(runs["coverage_policies"], tmp_path / "run")
    run = load(path)
    tables = {table.name: table for table in tables_of(run)}
    assert "decode" not in tables
    assert not tables["ttft"].shown
    page = write_report(run, list(tables.values()), experiments.section(run)).read_text()
    assert "has a row for each of 50 prompt lengths" in page
    names = {file.name for file in (path / "report").iterdir()}
    assert "ttft.csv" in names
    assert not {"ttft.md", "ttft.tex", "p99.md", "ttft_ratio.tex"} & names
    assert "ttft.tex" not in (path / "report" / "tables.tex").read_text()


def test_rolling_counts_hits_captures_and_growth(runs):
    run = load(runs["rolling"])
    row = rolling.record(run, "rolling_20")
    own = run.samples[run.samples["case"] == "rolling_20"]
    assert row["n"] == 1200
    assert row["hit_rate"] == pytest.approx(own["hits"].mean())
    assert row["ungraphed"] == own["ungraphed"].sum()
    assert (row["captures"], row["evictions"]) == (51, 30)
    assert (row["device_growth_mib"], row["host_growth_mib"]) == (0, 0)
    assert row["graph_memory_mib"] == 40


def test_growth_counts_from_request_1000_on():
    readings = pd.DataFrame({"request": [0, 950, 1000, 1050, 2000], "host_rss_mib": [1, 5, 7, 9, 8.5]})
    assert rolling.growth(readings, "host_rss_mib") == pytest.approx(1.5)
    assert math.isnan(rolling.growth(readings[:3], "host_rss_mib"))


def test_a_stream_too_short_for_growth_says_so(tmp_path, monkeypatch):
    run = load(studies.rolling(tmp_path / "run", monkeypatch, requests=200))
    growth = experiments.section(run).tables[1]
    assert cells(growth)[0][2:] == ["–", "–"]
    assert any("up to request 200 only" in text for _, text in growth.notes.lines())


def test_background_capture_compares_tails_with_intervals(runs):
    run = load(runs["background_capture"])
    quiet, busy, beside = background.records(run, "jit_cuda_graph")
    assert [row["n"] for row in (quiet, busy, beside)] == [1000, 1000, 500]
    assert math.isnan(quiet["p99_ratio"])
    assert beside["p99_ratio"] == pytest.approx(beside["p99_ms"] / quiet["p99_ms"])
    assert 1.0 < beside["p99_ratio_low"] <= beside["p99_ratio"] <= beside["p99_ratio_high"]


def test_busy_requests_that_all_had_a_capture_beside_them_are_one_curve(runs, tmp_path):
    path = studies.copy(runs["background_capture"], tmp_path / "run")
    samples = pd.read_csv(path / "samples.csv")
    samples.assign(capturing=(samples["metric"] == "busy").astype(int)).to_csv(path / "samples.csv", index=False)
    plot = experiments.section(load(path)).plots[0]
    names = [text.get_text() for text in plot.figure.axes[0].get_legend().get_texts()]
    assert names == ["Quiet (n = 1000)", "Busy, with a capture going on (n = 1000)"]
    assert "Every busy request had a capture" in plot.caption


def test_a_tail_of_few_requests_is_refused(tmp_path, monkeypatch):
    run = load(studies.background_capture(tmp_path / "run", monkeypatch, requests=300))
    table = background.table(run)
    assert cells(table)[0][5].startswith("max ")
    assert cells(table)[2][6] == "n too small"


def test_every_study_that_may_be_asked_for_has_a_section():
    assert tuple(experiments.STUDIES) == schema.STUDIES


def test_the_socket_costs_what_was_added(runs):
    run = load(runs["ipc"])
    rows = ipc.records(run)
    assert [row["label"] for row in rows] == ["10", "100", "400", "Decode"]
    assert all(row["added_p50_ms_low"] < 0.1 < row["added_p50_ms_high"] for row in rows)
    row = rows[0]
    assert row["added_p50_ms"] == pytest.approx(row["unix_p50_ms"] - row["inproc_p50_ms"])
    assert "0.2 to 0.7 ms" in ipc.table(run, rows).facts


def test_what_the_socket_adds_is_as_sure_as_its_processes_agree():
    def samples(blocks):
        return pd.DataFrame([(block, value + step) for block, value in enumerate(blocks) for step in (-0.5, 0.0, 0.5)],
                            columns=["block", "latency_ms"])  # fmt: skip

    inside = samples([10.0, 10.0, 10.0, 10.0])
    outside = samples([11.0, 12.0, 12.0, 13.0])
    found = blockwise.added(pd.concat([outside] * 10), pd.concat([inside] * 10), 0.5)
    # Differences of blocks are 1, 2, 2, 3: mean 2, s / sqrt(4) = sqrt(2/3) / 2, t of 3 degrees of freedom 3.1824.
    assert found.value == pytest.approx(2.0)
    assert found.high - 2.0 == pytest.approx(2.0 - found.low) == pytest.approx(3.1824 * math.sqrt(2 / 3) / 2, rel=1e-4)
    few = blockwise.added(pd.concat([samples([11.0, 12.0])] * 10), pd.concat([samples([10.0, 10.0])] * 10), 0.5)
    assert not math.isnan(few.value)
    assert math.isnan(few.low)
    assert math.isnan(blockwise.added(outside, inside, 0.99).value), "12 requests have no P99"


def test_effects_of_a_known_two_by_two():
    logs = np.log([[12.0], [6.0], [4.0], [1.0]])
    jit, graph, interaction = (float(np.exp(effect[0])) for effect in ablation.contrasts(logs))
    assert jit == pytest.approx(math.sqrt(6 / 12 * 1 / 4))
    assert graph == pytest.approx(math.sqrt(4 / 12 * 1 / 6))
    assert interaction == pytest.approx((1 / 4) / (6 / 12))


def test_ablation_rests_on_blocks_where_there_are_three(runs, tmp_path, monkeypatch):
    run = load(runs["ablation"])
    rows = ablation.records(run)
    assert "the effects of 3 blocks" in ablation.table(run, rows).facts
    decode = record(rows, label="Decode")
    assert decode["jit_factor_low"] <= decode["jit_factor"] <= decode["jit_factor_high"]
    assert decode["interaction"] == pytest.approx((3.5 / 4.1) / (6.2 / 12.5), rel=0.02)
    fewer = load(studies.ablation(tmp_path / "run", monkeypatch, blocks=2))
    assert "bootstrap over requests" in ablation.table(fewer, ablation.records(fewer)).facts


def test_the_published_ablation_stands_beside_ours(runs):
    row = record(ablation.records(load(runs["ablation"])), case="published")
    assert (row["eager"], row["jit"], row["cuda_graph"], row["jit_cuda_graph"]) == (52.43, 28.15, 46, 13)
    assert row["jit_factor"] == pytest.approx(math.sqrt(28.15 / 52.43 * 13 / 46))


def test_the_front_page_can_quote_a_study(runs, tmp_path):
    path = studies.copy(runs["rolling"], tmp_path / "run")
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results:begin -->\n<!-- results:end -->\n")
    assert main([str(path), "--readme", str(readme)]) == 0
    assert "### Hits, latency and captures by cap" in readme.read_text()
    assert "rolling_memory.png" in readme.read_text()


def test_every_number_of_a_table_is_in_its_csv(runs):
    table = experiments.section(load(runs["ipc"])).tables[0]
    frame = pd.read_csv(io.StringIO(table.csv()))
    assert len(frame) == len(table.rows)
    assert {"unix_p99_ms", "unix_p99_ms_low", "added_p50_ms_high"} <= set(frame)
    assert json.loads((runs["ipc"] / "manifest.json").read_text())["config"]["study"] == "ipc"


def test_the_floor_has_ratios_neighbours_and_an_average_over_published_lengths(runs):
    run = load(runs["floor"])
    rows = floor.records(run)
    assert [row["label"] for row in rows] == ["10", "37", "50", "100", "Average of the 3 published", "Decode"]
    ttft = run.ttft[run.ttft["case"] == "jit_cuda_graph"].set_index("prompt_length")
    ours = {length: float(ttft["p50_ms"][length]) for length in (10, 37, 50, 100)}
    for row in rows[:4]:
        length = int(row["label"])
        assert row["ours_p50_ms"] == pytest.approx(ours[length])
        assert row["over_floor"] == pytest.approx(ours[length] / ttft["floor_ms"][length])
    line = ours[10] + (ours[50] - ours[10]) * 27 / 40
    assert rows[1]["above_line"] == pytest.approx(ours[37] / line - 1)
    assert math.isnan(rows[0]["above_line"])
    assert math.isnan(rows[3]["above_line"])
    assert rows[4]["over_floor"] == pytest.approx(np.mean([rows[at]["over_floor"] for at in (0, 2, 3)]))
    assert rows[0]["ours_over_theirs"] < 1
    table, ready = experiments.section(run).tables
    assert [row[0].text for row in table.rows] == [row["label"] for row in rows]
    assert cells(ready)[0] == ["JIT+CUDA", "14.0", "8.0", "6.0"]


def test_a_tail_that_n_does_not_support_is_a_dash_over_the_floor_too(tmp_path, monkeypatch):
    run = load(studies.floor(tmp_path / "run", monkeypatch, iterations=20))
    assert all(math.isnan(row["p99_over_p50"]) for row in floor.records(run) if row["label"] == "10")
