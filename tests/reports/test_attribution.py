"""The walk from the published procedure to the controlled one: exact figures on invented runs."""

import itertools
import math

import pandas as pd
import pytest

from harness import schema
from harness.output.summary import summarise
from reports import experiments
from reports.experiments import attribution, ladder, waterfall
from reports.run import SMOKE, load
from tests.reports.studies import change_config
from tests.synthetic import LATENCY, Spec, invent, write

LENGTHS, EACH, CONTEXTS = (10, 100, 400), 5, range(380, 400)
GRAPH = (96.0, 33.0, 24.0, 24.0, 23.0, 20.0, 6.0, 4.4)
HYBRID = (12.0, 11.0, 10.0, 10.4, 10.4, 10.0, 3.0, 4.0)  # ms by step, invented like all figures here
TRANSFORMERS = {"published": 30.0, "warmup": 21.0, "sampling": 20.0}
STAND_IN = "Transformers (published as TensorRT-LLM)"
WHY = "package tensorrt_llm is not installed in the interpreter of this case: 50 % & _so_ on"


def figures(engine=None):
    """TTFT in ms of every case."""
    names = [step.name for step in ladder.STEPS]
    found = {f"cuda_graph_{n}": ms for n, ms in zip(names, GRAPH, strict=True)}
    found |= {f"jit_cuda_graph_{n}": ms for n, ms in zip(names, HYBRID, strict=True)}
    found |= {f"stand_in_{n}": ms for n, ms in TRANSFORMERS.items()}
    found |= {f"baseline_{n}": 1.25 * TRANSFORMERS[n] for n in ("published", "sampling")}
    return found | {"tensorrt_llm": engine}


def titles(cases):
    """As long as real ones."""
    named = {"cuda_graph": "CUDA Graph", "jit_cuda_graph": "JIT+CUDA", "stand_in": STAND_IN, "baseline": "Baseline"}
    found = {"tensorrt_llm": "TensorRT-LLM"}
    for case in cases:
        family = max((name for name in named if case.startswith(name)), key=len, default="")
        if family:
            step = case.removeprefix(f"{family}_").replace("_", " ")
            found[case] = named[family] if family == "stand_in" else f"{named[family]} + {step}"
    return found


def attribute(path, latency=None, patch=None, without=(), failed=(), **spec):
    """A run of the experiment: `latency` maps case to ms, None for one that is not installed."""
    latency = {case: ms for case, ms in (latency or figures()).items() if case not in without}
    missing = tuple(case for case, ms in latency.items() if ms is None)
    for case, ms in latency.items():
        patch.setitem(LATENCY, case, ms or 1.0)
    spec = {"cases": tuple(latency), "missing": missing, "wrong": (), "titles": titles(latency), "lengths": LENGTHS,
            "iterations": EACH, "blocks": 1, "context": 400, "context_ranges": ((380, 400),), **spec}  # fmt: skip
    invent(path, Spec(**spec))
    decode = {"prompt_length": 380, "context": 400, "sequences": 1}
    change_config(path, {"decode": decode}, study="attribution")
    rewrite(path, [row for case, ms in latency.items() if ms and case not in failed for row in samples(case, ms)])
    fail(path, {**dict.fromkeys(missing, ("unavailable", WHY)), **dict.fromkeys(failed, ("failed", "out of memory"))})
    return path


def samples(case, ms):
    """Constant latencies by the case's clock, a decode step at half of it; by the client's clock they differ."""
    keep = (
        dict.fromkeys(schema.SAMPLES, 0)
        | dict.fromkeys(schema.SAMPLES_UNKNOWN, "")
        | {
            "case": case,
            "throttle": "",
            "latency_ms": ms,
            "host_ms": ms + 1,
        }
    )
    for length in LENGTHS:
        for i in range(EACH + 1):  # the last iteration is P99's, not TTFT's
            late = {} if i < EACH else {"latency_ms": 1000.0}
            yield keep | {"metric": "ttft", "prompt_length": length, "context_length": length, "iteration": i} | late
    for context in CONTEXTS:
        yield keep | {"metric": "decode", "prompt_length": 380, "context_length": context, "latency_ms": ms / 2}


def rewrite(path, rows):
    columns = list(dict.fromkeys([*schema.SAMPLES, "latency_ms"]))
    write(path / "samples.csv", columns, rows)
    summarise(path)


def fail(path, states):
    status = pd.read_csv(path / "status.csv", dtype=str, keep_default_na=False)
    for case, (state, reason) in states.items():
        status.loc[status["case"] == case, ["state", "reason"]] = [state, reason]
    status.to_csv(path / "status.csv", index=False)


def spoil(path, change):
    """samples.csv with `change` made to its frame."""
    change(frame := pd.read_csv(path / "samples.csv", keep_default_na=False, na_values=[""]))
    frame.to_csv(path / "samples.csv", index=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        return load(attribute(tmp_path_factory.mktemp("attribution") / "run", patch=patch))


def texts(axes):
    return [text.get_text() for text in axes.texts]


def line(table, step):
    """The texts of the row of a step, by heading."""
    heads = [column.head.text for column in table.columns]
    return dict(zip(heads, next([c.text for c in row] for row in table.rows if row[0].text == step), strict=True))


def notes(table):
    return " ".join(text for _, text in table.notes.lines())


def both(path):
    """The section's tables and axes: over CUDA graphs, over the stand-in."""
    found = experiments.section(load(path))
    return found.tables, [plot.figure and plot.figure.axes[0] for plot in found.plots]


def test_the_ladder_over_cuda_graphs(run):
    rungs = ladder.climb(run, "cuda_graph").rungs
    assert [rung.speedup for rung in rungs] == pytest.approx([g / h for g, h in zip(GRAPH, HYBRID, strict=True)])
    factors = [now.speedup / before.speedup for before, now in itertools.pairwise(rungs)]
    assert [rung.factor for rung in rungs[1:]] == pytest.approx(factors)
    assert math.prod(rung.factor for rung in rungs[1:]) == pytest.approx(1.1 / 8)


def test_only_ttft_requests_count_by_the_clock_of_the_case(run):
    found = ladder.climb(run, "cuda_graph").found["cuda_graph_published"]
    assert (found.ttft_ms, found.requests, found.decode_ms) == (96.0, 15, 48.0)  # not P99's 1000 ms, not host_ms


def test_an_average_is_the_mean_over_lengths_of_their_means(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch)

    def cold(frame):
        first = (frame["case"] == "cuda_graph_published") & (frame["iteration"] == 0) & (frame["metric"] == "ttft")
        frame.loc[first & (frame["prompt_length"] == 10), "latency_ms"] = 96.0 + 15 * 60
        frame.loc[frame["prompt_length"] == 400, "iteration"] -= 1  # one request more at that length
        frame.loc[frame["latency_ms"] == 1000, "latency_ms"] = 96.0

    spoil(path, cold)
    assert ladder.climb(load(path), "cuda_graph").found["cuda_graph_published"].ttft_ms == pytest.approx(96 + 60)


def test_the_stand_in_holds_until_something_changes_it(run):
    theirs = [rung.theirs for rung in ladder.climb(run, "stand_in").rungs]
    wanted = ["published", "published", "warmup", "warmup", "sampling", "sampling", "sampling", "sampling"]
    assert theirs == [*(f"stand_in_{name}" for name in wanted), "tensorrt_llm"]


def test_published_figures_stand_above_the_first_step(run):
    graph, stand_in = experiments.section(run).tables
    assert [line(graph, f"Published, {text}")["Speed-up"] for text in ("front page", "draft")] == ["7.79×", "5.10×"]
    assert [line(stand_in, f"Published, {text}")["Speed-up"] for text in ("front page", "draft")] == ["1.42×", "1.75×"]
    assert "both texts state 5.17×" in graph.facts
    assert "both texts state 1.75×" in stand_in.facts
    assert line(graph, "As published") == {
        "Step": "As published", "What was changed": "the published procedure as it stands", "TTFT, CUDA Graph": "96.00",
        "TTFT, JIT+CUDA": "12.00", "Speed-up": "8.00×", "Factor": "–", "Decode, CUDA Graph": "48.00",
        "Decode, JIT+CUDA": "6.00",
    }  # fmt: skip
    assert line(graph, "Same captures")["Factor"] == "/2.67"
    assert line(stand_in, "Lean model code")["Factor"] == "×3.33"


def test_the_stand_in_has_its_own_name_and_is_set_beside_the_baseline(run):
    table, plot = experiments.section(run).tables[1], experiments.section(run).plots[1]
    found = f"{STAND_IN} over Baseline, both the model of Transformers by the same code, "
    found += "before greedy sampling each with its published sampler; ratio of average TTFT: as "
    for text in (table.facts, plot.caption):
        assert found + "published: 0.80× (30.00 over 37.50 ms); greedy sampling: 0.80× (20.00 over 25.00 ms)." in text
    assert STAND_IN in table.title
    assert STAND_IN in plot.title
    assert notes(table).startswith(STAND_IN)


def test_an_engine_that_is_not_there_is_hatched_with_the_reason(run):
    table, plot = experiments.section(run).tables[1], experiments.section(run).plots[1]
    row = line(table, "Real engine")
    assert [row[head] for head in ("TTFT, the other", "Speed-up", "Factor", "TTFT, JIT+CUDA")] == ["–"] * 3 + ["4.00"]
    assert WHY in notes(table)
    axes = plot.figure.axes[0]
    assert [text.split("\n")[0] for text in texts(axes) if "not measured here" in text] == ["not measured here"]
    assert "unavailable: package" in " ".join(texts(axes)).replace("\n", " ")
    assert WHY in plot.caption
    assert len([patch for patch in axes.patches if patch.get_hatch()]) == 1


def test_an_engine_that_is_there_fills_its_bar(tmp_path, monkeypatch):
    (_, table), (_, axes) = both(attribute(tmp_path / "run", figures(engine=2.0), monkeypatch))
    assert line(table, "Real engine")["Speed-up"] == "0.50×"
    assert line(table, "Real engine")["Factor"] == "/10.00"
    assert "/10.00" in texts(axes)
    assert not [patch for patch in axes.patches if patch.get_hatch()]


def test_an_engine_that_is_impersonated_is_none(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", figures(engine=2.0), monkeypatch)
    change_config(path, cases={"tensorrt_llm": {"impersonate": "transformers", "title": STAND_IN}})
    table = experiments.section(load(path)).tables[1]
    assert line(table, "Real engine")["Speed-up"] == "–"
    assert f"What runs as tensorrt_llm here is transformers: {STAND_IN} [tensorrt_llm]." in notes(table)


def test_a_step_without_a_figure_is_never_invented(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch, failed=["cuda_graph_warmup"], without=["cuda_graph_logits"])
    (table, _), (axes, _) = both(path)
    over_graph, over_stand_in = (plot.caption for plot in experiments.section(load(path)).plots)
    assert "A bar behind a hatched place shows all that changed" in over_graph
    assert "A bar behind" not in over_stand_in  # its only hatched place is the last
    row = line(table, "Cold starts apart")
    assert [row[head] for head in ("TTFT, CUDA Graph", "Speed-up", "Factor")] == ["–"] * 3
    assert "failed: out of memory." in notes(table)
    assert "The case cuda_graph_logits is not in this run." in notes(table)
    assert line(table, "Client's clock")["Factor"] == "/1.30"  # from 3.00 to 24 / 10.4, with the step before
    assert attribution.TOGETHER in notes(table)
    assert len([patch for patch in axes.patches if patch.get_hatch()]) == 2
    assert table.frame.set_index("step").loc["warmup", ["speedup", "factor"]].isna().all()
    assert table.frame.set_index("step").loc["clock", "since"] == "capture_set"


def test_without_its_first_step_the_ladder_begins_at_the_next(tmp_path, monkeypatch):
    (table, _), (axes, _) = both(attribute(tmp_path / "run", patch=monkeypatch, failed=["cuda_graph_published"]))
    assert [line(table, name)["Factor"] for name in ("Same captures", "Cold starts apart")] == ["–", "/1.25"]
    assert attribution.FIRST in notes(table)
    assert "/2.67" not in texts(axes)


def test_a_case_that_lacks_a_length_or_contexts_has_no_mean(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch)
    frame = pd.read_csv(path / "samples.csv", keep_default_na=False, na_values=[""])
    own = frame["case"] == "cuda_graph_published"
    frame[~(own & ((frame["prompt_length"] == 400) | (frame["context_length"] > 390)))].to_csv(path / "samples.csv")
    row = line(table := experiments.section(load(path)).tables[0], "As published")
    assert (row["TTFT, CUDA Graph"], row["Decode, CUDA Graph"], row["TTFT, JIT+CUDA"]) == ("–", "–", "12.00")
    assert "no average, for lack of requests of 400 tokens" in notes(table)
    assert "no mean, for lack of decode steps from context 391 on" in notes(table)


def test_a_step_names_all_that_the_configuration_changed(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch)
    before = {"name": "clock", "sampling": {"strategy": "published"}, "prompt": "sentence", "engine_check": False}
    after = {"name": "sampling", "sampling": {"strategy": "greedy"}, "prompt": "random", "engine_check": True}
    change_config(path, cases={f"jit_cuda_graph_{p['name']}": {"procedure": p} for p in (before, after)})
    words = line(experiments.section(load(path)).tables[0], "Greedy sampling")["What was changed"]
    assert "protocol controlled;" in experiments.section(load(path)).tables[0].facts
    change_config(path, protocol={"name": "from paper to controlled"})
    tables = experiments.section(load(path)).tables
    assert all("; protocol from paper to controlled, step by step;" in table.facts for table in tables)
    assert words == "greedy for all, not each case's published sampler; also prompt random, not sentence"


def test_a_run_in_which_nothing_ran_still_has_its_section(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch, failed=list(figures()))
    section = experiments.section(load(path))
    assert all(plot.figure is None and plot.reason for plot in section.plots)
    assert all("failed: out of memory." in notes(table) for table in section.tables)


def test_a_smoke_run_is_stamped(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch, smoke=True)
    tables, pictures = both(path)
    assert all(table.smoke for table in tables)
    assert all(SMOKE in texts(axes) for axes in pictures)


def test_without_decode_there_are_no_such_columns(tmp_path, monkeypatch):
    path = attribute(tmp_path / "run", patch=monkeypatch)
    change_config(path, {"decode": {"prompt_length": 380, "context": 400, "sequences": 0}})
    table = experiments.section(load(path)).tables[0]
    assert [column.head.text for column in table.columns][-2:] == ["Speed-up", "Factor"]
    assert {len(row) for row in table.rows} == {6}


@pytest.mark.parametrize(
    ("factor", "text"), [(1.12, "×1.12"), (1, "×1.00"), (0.996, "×1.00"), (1 / 2.41, "/2.41"), (0.02, "/50.00")]
)
def test_factors_read_as_what_was_done(factor, text):
    assert waterfall.factor_text(factor) == text


@pytest.mark.parametrize(
    "way", [(8.0, 3, 2.4, 2.3, 2.2, 2.2, 2, 1.1), (40.0, 0.3, 0.31, 12, 11, 1, 0.99, 1), (1.0,) * 8, (0.9, 1.02) * 4]
)
@pytest.mark.parametrize("smoke", [False, True])
def test_nothing_written_hides_anything_else(tmp_path, monkeypatch, way, smoke):
    changed = {f"cuda_graph_{step.name}": 10.0 * way[i] for i, step in enumerate(ladder.STEPS)}
    changed |= {f"jit_cuda_graph_{step.name}": 10.0 for step in ladder.STEPS}
    path = attribute(tmp_path / "run", figures() | changed, monkeypatch, smoke=smoke)
    for axes in both(path)[1]:
        axes.figure.canvas.draw()
        shown = [text for text in [*axes.texts, *axes.get_xticklabels(), *axes.figure.texts] if text.get_text()]
        boxes = [text.get_window_extent().shrunk(0.98, 0.9) for text in shown]
        hidden = [(shown[i], shown[j]) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]
        assert not hidden
        assert all(axes.figure.bbox.containsx(box.x1) and axes.figure.bbox.containsx(box.x0) for box in boxes)
