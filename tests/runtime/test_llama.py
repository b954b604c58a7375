"""The lean Llama against Transformers, in float32 on the CPU, from files that Transformers wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cases.cuda_graph import CudaGraph
from cases.eager import Eager
from cases.jit import Jit
from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.llama import LAST, POSITION, TOKENS, Llama, rotary_tables
from cases.runtime.shape import read_shape
from tests.runtime.llamas import GRAPH, load, new_model, plan, prompt, save, tiny_shape

TOLERANCE = 1e-4
LENGTHS = (1, 2, 7, 16, 33)
STEPS = 5
VARIANTS: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"num_key_value_heads": 4},
    "mqa": {"num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "odd vocabulary and width": {"vocab_size": 199, "intermediate_size": 83},
    "other theta": {"theta": 500000.0},
    "wide heads": {"head_dim": 32},
    "large eps": {"rms_norm_eps": 0.1},
    "one layer": {"num_hidden_layers": 1},
    "sharded": {"shard": "40KB"},
    "mistral": {"family": "mistral", "sliding_window": None},
    "mistral whose window is never reached": {"family": "mistral", "sliding_window": 256},
}


@pytest.fixture(scope="module", params=VARIANTS.values(), ids=VARIANTS.keys())
def pair(request, tmp_path_factory):
    """A model of Transformers, and the folder that it was saved to."""
    changes = dict(request.param)
    shard = changes.pop("shard", "5GB")
    model = new_model(**changes)
    folder = save(model, tmp_path_factory.mktemp("checkpoint"), shard)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shard != "5GB")
    return model, folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """One checkpoint for what does not depend on the variant."""
    model = new_model()
    return model, save(model, tmp_path_factory.mktemp("small"))


def reference(model: Any, ids: list[int]) -> torch.Tensor:
    """Logits [ids, vocabulary]."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def lean_prefill(llama: Llama, ids: list[int], count: int | None = None) -> torch.Tensor:
    count = count or len(ids)
    llama.state.words.fill_(1)
    llama.state.words[: TOKENS + count] = torch.tensor([0, len(ids) - 1, *ids, *[0] * (count - len(ids))])
    llama.forward(count)
    return llama.state.logits.clone()


def lean_decode(llama: Llama, position: int, token: int) -> torch.Tensor:
    llama.state.words[POSITION], llama.state.words[LAST], llama.state.words[TOKENS] = position, 0, token
    llama.forward(1)
    return llama.state.logits.clone()


def test_prefill_and_decode_logits_equal_transformers(pair):
    model, folder = pair
    llama = load(folder)
    for length in LENGTHS:
        ids = prompt(length + STEPS, llama.shape.vocab_size)
        expected = reference(model, ids)
        torch.testing.assert_close(lean_prefill(llama, ids[:length]), expected[length - 1], atol=TOLERANCE, rtol=1e-4)
        for step in range(STEPS):
            found = lean_decode(llama, length + step, ids[length + step])
            torch.testing.assert_close(found, expected[length + step], atol=TOLERANCE, rtol=1e-4)


def test_the_reference_is_no_constant(small):
    """Else equality would say nothing: logits differ by token, by position and by what came before."""
    model, _ = small
    ids = prompt(20)
    logits = reference(model, ids)
    assert logits.std() > 0.3
    assert (logits[10] - logits[11]).abs().max() > 0.3
    swapped = reference(model, [ids[1], ids[0], *ids[2:]])
    assert (logits[-1] - swapped[-1]).abs().max() > 100 * TOLERANCE


def test_what_lies_in_the_padding_changes_nothing(small):
    """The same logits whatever the bucket, and decode sees nothing of the padding's keys."""
    _, folder = small
    llama = load(folder)
    ids = prompt(21)
    exact = lean_prefill(llama, ids[:20])
    then = lean_decode(llama, 20, ids[20])
    for count in (21, 32, 48, 96):
        torch.testing.assert_close(lean_prefill(llama, ids[:20], count), exact, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lean_decode(llama, 20, ids[20]), then, atol=1e-5, rtol=1e-5)


def test_the_last_sequence_leaves_no_trace(small):
    _, folder = small
    llama = load(folder)
    fresh = lean_prefill(llama, prompt(9))
    lean_prefill(llama, prompt(90, seed=1))
    assert torch.equal(lean_prefill(llama, prompt(9)), fresh)


def test_a_short_context_and_a_long_one_give_the_same(small):
    model, folder = small
    ids = prompt(12)
    for context in (12, 13, 200):
        found = lean_prefill(load(folder, context), ids)
        torch.testing.assert_close(found, reference(model, ids)[-1], atol=TOLERANCE, rtol=1e-4)


def test_rotary_tables_are_angles_of_position_times_inverse_frequency():
    cosines, sines = rotary_tables(tiny_shape(rope_theta=100.0), 5, "cpu")
    assert cosines.shape == sines.shape == (5, 4)
    torch.testing.assert_close(cosines[3, 2], torch.tensor(3 * 100.0 ** -(4 / 8)).cos())
    torch.testing.assert_close(sines[4, 0], torch.tensor(4.0).sin())


def test_the_shape_survives_transformers_own_config(pair):
    model, folder = pair
    shape, config = read_shape(folder), model.config
    assert shape.rope_theta == config.rope_parameters["rope_theta"]
    assert shape.head_dim == (config.head_dim or config.hidden_size // config.num_attention_heads)
    assert (shape.num_key_value_heads, shape.vocab_size) == (config.num_key_value_heads, config.vocab_size)
    assert shape.tie_word_embeddings == config.tie_word_embeddings
    stored = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if shape.tie_word_embeddings:
        stored.pop("lm_head.weight")
    assert shape.tensors() == stored


def test_transformers_loads_what_this_package_writes(tiny_checkpoint):
    """And computes the same from it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint, dtype=torch.float32).eval()
    ids = prompt(25, 1024)
    found = lean_prefill(load(Path(tiny_checkpoint)), ids)
    torch.testing.assert_close(found, reference(model, ids)[-1], atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def cases(small):
    """Every lean case, prepared on the same weights."""
    made = {kind: kind() for kind in (Eager, CudaGraph, Jit, JitCudaGraph)}
    for case in made.values():
        case.prepare(plan(small[1]))
    yield made
    for case in made.values():
        case.close()


@pytest.mark.parametrize("kind", [CudaGraph, Jit, JitCudaGraph])
@pytest.mark.parametrize("length", [*range(1, 41), 47, 48, 49, 63, 64, 65, 80])
def test_graphs_and_kernels_change_no_logits(cases, kind, length):
    """Around every bucket edge, and beyond the largest bucket."""
    ids, forced = prompt(length), prompt(3, seed=9)
    expected = torch.tensor([list(row) for row in cases[Eager].score(ids, forced)])
    found = torch.tensor([list(row) for row in cases[kind].score(ids, forced)])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("beyond", "pieces", "ungraphed"), [("chunks", 2, 0), ("ungraphed", 1, 1)])
def test_beyond_the_largest_bucket_come_chunks_or_no_graph_and_it_is_counted(small, beyond, pieces, ungraphed):
    case = CudaGraph()
    case.prepare(plan(small[1], graph={**GRAPH, "beyond": beyond}))
    for length, prefills, without in ((GRAPH["largest"], 1, 0), (GRAPH["largest"] + 1, pieces, ungraphed)):
        before = case.stats()
        case.prefill(prompt(length), 3)
        case.decode()
        case.decode()
        after = case.stats()
        assert after.ungraphed - before.ungraphed == without
        assert after.replays - before.replays == 2 + prefills - without
        assert after.hits - before.hits == prefills - without
        assert (after.captures, after.misses) == (before.captures, 0)
    case.close()


def test_a_case_without_graphs_replays_none(cases):
    cases[Eager].prefill(prompt(5))
    stats = cases[Eager].stats()
    assert (stats.replays, stats.ungraphed, stats.captures, stats.gpu_ns) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", [Eager, CudaGraph, Jit, JitCudaGraph])
def test_scores_are_the_timed_path_and_equal_transformers(cases, small, kind):
    ids, forced = prompt(14), prompt(6, seed=3)
    expected = reference(small[0], [*ids, *forced])[len(ids) - 1 :]
    rows = cases[kind].score(ids, forced)
    torch.testing.assert_close(torch.tensor([list(row) for row in rows]), expected, atol=TOLERANCE, rtol=1e-4)
    greedy = [cases[kind].prefill(ids, 4), *(cases[kind].decode() for _ in range(3))]
    found = cases[kind].score(ids, greedy[:3])
    assert [max(range(len(row)), key=row.__getitem__) for row in found] == greedy


def test_a_graph_case_captures_every_bucket_up_to_the_cap_before_its_first_request(small):
    case = CudaGraph()
    case.prepare(plan(small[1], graph={**GRAPH, "max_graphs": 2, "capture": "blocking"}))
    assert (case.stats().captures, case.footprint().graphs) == (3, 3)
    assert [record.bucket for record in case.captured()] == [0, 32, 16]
    case.prefill(prompt(40))
    assert (case.stats().captures, case.footprint().graphs, case.stats().evictions) == (4, 3, 1)
    case.close()
    assert case.footprint().graphs == 0


@pytest.mark.parametrize(
    ("length", "new_tokens"), [(0, 1), (97, 1), (96, 2), (1, 97)], ids=["empty", "too long", "no room", "too many"]
)
def test_a_request_beyond_the_context_is_refused(cases, length, new_tokens):
    with pytest.raises(ValueError, match=f"a prompt of {length} tokens and {new_tokens} new ones"):
        cases[CudaGraph].prefill([5] * length, new_tokens)
    assert isinstance(cases[CudaGraph].prefill(prompt(4)), int)


def test_decode_beyond_the_context_is_refused(cases):
    cases[Eager].prefill(prompt(96))
    with pytest.raises(ValueError, match="no room for another token after 96 of 96"):
        cases[Eager].decode()
