"""A forward captured in two parts: where it is split, and what the parts are together."""

from __future__ import annotations

import pytest

from cases.cuda_graph import CudaGraph
from cases.runtime import capture
from cases.runtime.buckets import GraphOptions
from cases.runtime.capture import CudaCapture, EagerCapture, EagerReplay, InTurn, Nth
from cases.runtime.graph_runner import GraphRunner
from harness.contract import Plan
from tests.runtime import llamas


def test_the_split_comes_behind_so_many_layers_and_once():
    places: list[int] = []
    calls = 0

    def split() -> None:
        places.append(calls)

    between = Nth(2, split)
    for calls in range(6):  # noqa: B007  read by split
        between()
    assert places == [2], "called before each layer: the third call is behind two of them"


def test_parts_are_replayed_in_order_and_all_given_back():
    done: list[str] = []
    parts = [EagerReplay(lambda name=name: done.append(name)) for name in ("first", "rest")]
    graph = InTurn(parts)
    graph.replay()
    graph.replay()
    assert done == ["first", "rest"] * 2
    graph.reset()
    for part in parts:
        with pytest.raises(RuntimeError, match="given back"):
            part.replay()


class Recording:
    """In a graph's place: notes what is done with it."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number, self.log = number, log
        log.append(f"begin {number}")

    def capture_end(self) -> None:
        self.log.append(f"end {self.number}")

    def reset(self) -> None:
        self.log.append(f"reset {self.number}")


@pytest.fixture
def log(monkeypatch) -> list[str]:
    found: list[str] = []
    monkeypatch.setattr(
        capture, "_begun", lambda handle, kept: Recording(sum("begin" in line for line in found), found)
    )
    return found


def forward(log: list[str], layers: int, fails: int = -1):
    def work(between) -> None:
        for layer in range(layers):
            between()
            if layer == fails:
                raise MemoryError
            log.append(f"layer {layer}")
        between()

    return work


def test_the_layers_go_into_two_graphs(log):
    parts = CudaCapture._record(object.__new__(CudaCapture), forward(log, 3), None, 1)
    assert log == ["begin 0", "layer 0", "end 0", "begin 1", "layer 1", "layer 2", "end 1"]
    assert [part.number for part in parts] == [0, 1]


@pytest.mark.parametrize(
    ("fails", "done"),
    [
        (0, ["begin 0", "end 0", "reset 0"]),
        (1, ["begin 0", "layer 0", "end 0", "begin 1", "end 1", "reset 1", "reset 0"]),
    ],
)
def test_of_a_capture_that_fails_nothing_stays(log, fails, done):
    with pytest.raises(MemoryError):
        CudaCapture._record(object.__new__(CudaCapture), forward(log, 3, fails), None, 1)
    assert log == done


def test_a_polite_capture_is_split_before_it_gives_way(tmp_path):
    order: list[str] = []
    model = llamas.load(llamas.save(llamas.new_model(), tmp_path))
    runner = GraphRunner(model, GraphOptions(**llamas.GRAPH), EagerCapture())
    runner.gate._give_way = lambda: order.append("way")
    runner._forward_politely(16, lambda: order.append("split"))
    layers = model.shape.num_hidden_layers
    assert order == ["split", "way"] * (layers + 1)
    runner.close()


def test_a_model_has_more_layers_than_go_ahead(tmp_path):
    folder = llamas.save(llamas.new_model(), tmp_path)
    plan = Plan("x", str(folder), "cpu", "float32", 96, options={"graph": llamas.GRAPH | {"lead": 3}})
    case = CudaGraph()
    case.report = lambda phase: pytest.fail("it began to load")
    with pytest.raises(ValueError, match=r"graph\.lead=3 must be below the model's 3 layers"):
        case.prepare(plan)


def test_transformers_code_shows_no_layers():
    options = {"graph": llamas.GRAPH | {"lead": 1, "beyond": "ungraphed"}, "decode": "recompute", "logits": "all"}
    with pytest.raises(ValueError, match=r"shows no layers to capture apart: set graph\.lead=0"):
        CudaGraph.check_options(options | {"model_code": "transformers"})
