"""What newer runs say of the machine, of who answered, of energy and of diverging ids; older ones lack the tables."""

import json

import numpy as np
import pandas as pd
import pytest

from harness import schema
from harness.output.summary import summarise
from reports import machine
from reports.__main__ import tables_of, write_report
from reports.definitions import definitions
from reports.run import load

SEEN = "proven: 12 different kernels, of them this repository's _gemv; 3 CUDA graphs launched, 3 replays counted"
SPANS = {"rest": (0, 0, 240.0, ""), "ttft": (100, 500, 1000.0, 2.0), "decode": (10, 400, 600.0, "")}


def change_manifest(path, **facts):
    manifest = path / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **facts}))


@pytest.fixture
def new(run_dir):
    """The stored run as it would be measured now."""
    samples = pd.read_csv(run_dir / "samples.csv")
    samples = samples.assign(replays=0, temperature_c=46, power_w=300.5, co_tenants=0.0, co_tenant_mib=0)
    samples = samples.assign(started_ns=np.arange(len(samples)) * 10**9)
    jit = samples["case"] == "jit"
    samples.loc[jit & (samples["iteration"] == 2), "co_tenants"] = 1
    samples.loc[jit & (samples["iteration"] == 3), "co_tenants"] = np.nan
    samples.loc[samples.index[jit][5], ["sm_clock_mhz", "throttle"]] = [1500, ""]
    samples.to_csv(run_dir / "samples.csv", index=False)
    status = pd.read_csv(run_dir / "status.csv").assign(
        identity=SEEN,
        modules="torch 2.11.0",
        sampler="greedy by Triton",
        kernels=12,
        graph_launches=3,
        replayed="9 of 9",
    )
    status.loc[status["case"] == "eager", "identity"] = "not proven: the profiler does not start"
    status.loc[status["case"] == "tensorrt_llm", "identity"] = ""
    status.to_csv(run_dir / "status.csv", index=False)
    rows = [
        ("jit", 0, metric, length, n, 0, 0, 0, joules, each, 1.5 if metric == "decode" else "", 120, "back to back")
        for metric, (length, n, joules, each) in SPANS.items()
    ]
    pd.DataFrame(rows, columns=list(schema.ENERGY)).to_csv(run_dir / "energy.csv", index=False)
    summarise(run_dir)
    return run_dir


@pytest.fixture
def tables(new):
    return {table.name: table for table in tables_of(load(new))}


def row(table, title):
    return next(cells for cells in table.rows if cells[0].text == title)


def noted(table, cell):
    return [text for mark, text in table.notes.lines() if mark in cell.marks]


def test_an_older_run_has_none_of_it_and_a_newer_one_all(new, tables):
    ours = {"identity", "divergence", "machine", "energy"}
    assert ours <= set(tables)
    always = {
        "samples": schema.SAMPLES_ALWAYS,
        "status": schema.STATUS_ALWAYS,
        "equivalence": schema.EQUIVALENCE_ALWAYS,
    }
    for name, columns in always.items():
        path = new / f"{name}.csv"
        pd.read_csv(path).reindex(columns=list(columns)).to_csv(path, index=False)
    (new / "energy.csv").unlink()
    assert not ours & {table.name for table in tables_of(load(new))}


def test_who_answered_stands_in_the_table_and_in_the_footnotes_of_the_summary(tables):
    jit, eager = (row(tables["identity"], title) for title in ("JIT-Only", "Eager (control)"))
    assert [cell.text for cell in jit[1:]] == [
        "2 of 2 processes", "greedy by Triton", "torch 2.11.0", "12", "3", "9 of 9"
    ]  # fmt: skip
    assert eager[1].text == "0 of 2 processes"
    assert f"JIT-Only: {SEEN}." in noted(tables["summary"], row(tables["summary"], "JIT-Only")[0])
    assert "tensorrt_llm is not installed" in noted(tables["identity"], row(tables["identity"], "TensorRT-LLM")[1])[0]


@pytest.mark.parametrize("stored", ["0 of 9", ""])
def test_an_engine_that_counts_none_of_its_graphs_is_not_said_to_have_answered_without_any(new, stored):
    status = pd.read_csv(new / "status.csv")
    jit, graphs = status["case"].eq("jit"), status["case"].eq("cuda_graph")
    status.loc[jit, ["replays", "ungraphed"]], status.loc[jit, "replayed"] = 0, stored
    status.loc[graphs, ["replays", "ungraphed"]], status.loc[graphs, "replayed"] = [0, 9], "0 of 9"
    status.to_csv(new / "status.csv", index=False)
    table = next(table for table in tables_of(load(new)) if table.name == "identity")
    found = row(table, "JIT-Only")[-1]
    assert found.text == "–"
    assert "which the case does not count" in noted(table, found)[0]
    assert (row(table, "CUDA Graph")[-1].text, row(table, "CUDA Graph")[-1].marks) == ("0 of 9", ())


def test_slowed_and_shared_samples_are_counted_and_kept(tables, new):
    found = row(tables["machine"], "JIT-Only")
    samples = pd.read_csv(new / "samples.csv")
    own = samples[(samples["case"] == "jit") & samples["metric"].isin(["ttft", "decode"])]
    slowed = int(own["throttle"].fillna("").str.contains("sw_power_cap").sum())
    assert found[5].text == f"{slowed} of {len(own)}"
    assert found[6].text == str(int((own["co_tenants"] == 1).sum()))
    assert "it is not known who else computed" in noted(tables["machine"], found[6])[0]
    assert found[1].text == "1500 to 1980"
    assert (found[2].text, row(tables["machine"], "Baseline")[2].text) == ("no", "yes")


def test_the_hosts_loop_stands_in_the_table_of_the_machine_where_it_was_timed(new, tables):
    assert len(tables["machine"].columns) == 7
    samples = pd.read_csv(new / "samples.csv")
    jit = samples["case"].eq("jit") & samples["metric"].isin(["ttft", "decode"])
    samples.loc[jit, "host_loop_us"] = [4.0, 5.3, 5.3, 5.3] * (int(jit.sum()) // 4) + [4.0] * (int(jit.sum()) % 4)
    samples.to_csv(new / "samples.csv", index=False)
    slow = (samples.loc[jit, "host_loop_us"] == 5.3).mean()
    (table,) = (table for table in tables_of(load(new)) if table.name == "machine")
    assert [cell.text for cell in row(table, "JIT-Only")[-2:]] == ["5.30", f"{100 * slow:.0f} %"]
    assert [cell.text for cell in row(table, "Baseline")[-2:]] == ["–", "–"]
    assert {len(cells) for cells in table.rows} == {9}


TENTH = 10**8


@pytest.mark.parametrize(
    ("clocks", "reasons", "said"),
    [
        ([1980] * 4, [""] * 4, "yes"),
        ([1980, 1500, 1980, 1980], [""] * 4, "no"),
        ([1980, 1980, 1500, 1400], ["", "", "", "sw_power_cap"], "yes"),
        ([345, 345, 1980, 1980, 1980], ["idle", "", "", "", ""], "yes"),
        ([1500, 1980, 1980, 1400], ["", "", "", "sw_power_cap"], "no"),
        ([1400, 1400], ["sw_power_cap"] * 2, "–"),
        ([np.nan] * 3, [""] * 3, "–"),
    ],
    ids=["steady", "unsteady", "the cap unnamed yet", "waking", "unsteady before the cap", "at the cap", "unread"],
)
def test_a_clock_on_its_way_to_the_cap_is_not_unsteady(clocks, reasons, said):
    readings = pd.DataFrame({"sm_clock_mhz": clocks, "throttle": reasons})
    own = readings.loc[readings.index.repeat(5)].reset_index(drop=True)
    own = own.assign(started_ns=np.arange(len(own)) * TENTH // 5, block=0)
    assert machine.steady(own) == said


def test_clocks_of_two_hosts_are_not_mixed():
    free = pd.DataFrame({"block": 0, "started_ns": [1e9, 3e9], "throttle": "", "sm_clock_mhz": [1900, 1000]})
    slowed = free.assign(block=1, started_ns=free["started_ns"] + 1, throttle="sw_power_cap")
    assert machine.steady(free) == machine.steady(pd.concat([free, slowed])) == "no"


def test_samples_beside_which_nothing_was_read_are_not_called_free(new):
    samples = pd.read_csv(new / "samples.csv")
    unread = (samples["case"] == "jit") & (samples["iteration"] == 1)
    whole = samples["case"] == "eager"
    timed = samples["metric"].isin(["ttft", "decode"])
    columns = ["sm_clock_mhz", "throttle", "temperature_c", "power_w"]
    samples.loc[unread | whole, columns] = np.nan
    samples.to_csv(new / "samples.csv", index=False)
    table = next(table for table in tables_of(load(new)) if table.name == "machine")
    some, none = (row(table, title)[5] for title in ("JIT-Only", "Eager (control)"))
    n, lost = int((timed & (samples["case"] == "jit")).sum()), int((timed & unread).sum())
    assert lost > 0
    assert some.text.endswith(f" of {n - lost}")
    assert f"Nothing was read near {lost} of {n} samples" in noted(table, some)[-1]
    assert none.text == "–"
    assert "whether they were slowed down is not known" in noted(table, none)[0]


def test_energy_is_a_table_where_it_was_measured_and_said_where_not(tables, new, stored):
    texts = {cells[0].text: cells for cells in tables["energy"].rows}
    jit = [column.head.text for column in tables["energy"].columns].index("JIT-Only")
    assert texts["100 tokens, J a request"][jit].text == "2.00"
    assert texts["Decode, J a token"][jit].text == "1.50"
    assert texts["At rest, W"][jit].text == "120.00"
    change_manifest(new, no_energy="telemetry.hz is 0")
    assert definitions(load(new))["Energy"].endswith("Not measured in this run: telemetry.hz is 0.")
    assert "Not measured" not in definitions(stored)["Energy"]


def test_joules_of_something_else_are_no_cases(new):
    """They are measured before the proof that fails."""
    assert machine.measured(load(new))
    status = pd.read_csv(new / "status.csv")
    foreign = (status["case"] == "jit") & (status["block"] == 0)
    status.assign(identity=status["identity"].mask(foreign, "contradicted: by Transformers")).to_csv(
        new / "status.csv", index=False
    )
    assert not machine.measured(load(new))


def test_where_ids_diverge_is_said(new):
    samples = pd.read_csv(new / "samples.csv")
    decode = (samples["case"] == "jit") & (samples["metric"] == "decode") & (samples["context_length"] == 30)
    samples.loc[decode, "token_id"] = -1
    samples = samples[(samples["case"] != "baseline") | (samples["block"] == 0)]
    samples.to_csv(new / "samples.csv", index=False)
    summarise(new)
    table = next(table for table in tables_of(load(new)) if table.name == "divergence")
    assert [cell.text for cell in row(table, "JIT-Only")[1:]] == ["none", "none", "60", "30"]
    assert [cell.text for cell in row(table, "Eager (control)")[2:]] == ["3", "60", "none"]


def test_warnings_stand_under_every_table_and_the_page_has_all(new):
    change_manifest(new, warnings=["GPU 0 is also used by process 7 (512 MiB)"])
    run = load(new)
    found = tables_of(run)
    assert all("warned before the run: GPU 0 is also used by process 7" in table.facts for table in found)
    text = write_report(run, found).read_text()
    assert all(f'id="{name}"' in text for name in ("identity", "divergence", "machine", "energy"))
