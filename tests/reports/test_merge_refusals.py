"""`python -m reports merge` on mixtures that mean nothing, on mistakes, and on damaged runs: one sentence, code 2."""

import shutil

import pytest

from reports.merge.alike import check
from reports.merge.gather import gather
from tests.damage import edit
from tests.reports.pairs import manifest
from tests.reports.sweeps import GPUS, invented, merge

SMALL = {"iterations": 8, "blocks": 1, "cases": ("baseline",), "missing": (), "wrong": ()}
ANOTHER_MODEL = {"model__name": "Other", "model__digest": "7" * 64, "prompt_digest": "8" * 64}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [invented(folder / f"{gpu}-two", gpu, **SMALL) for gpu in GPUS]


@pytest.fixture
def two(pair, tmp_path):
    """One model on two GPUs, free to spoil."""
    for folder in pair:
        shutil.copytree(folder, tmp_path / "sweep" / folder.name)
    return tmp_path / "sweep"


def refused(capsys, *arguments):
    """The one sentence, with which the command ends."""
    assert merge(*arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("reports: ")
    assert printed.err.count("\n") == 1
    return printed.err


MIXTURES = {
    "smoke and measured": ({"smoke": True}, "slow-two is a smoke run, which measures nothing, and fast-two is"),
    "protocols": ({"protocol": "paper"}, "fast-two follows the protocol controlled and slow-two the protocol paper"),
    "a protocol's value": ({"config__protocol": {"clock": "server"}}, "protocol.clock is client in fast-two and"),
    "a case's procedure": ({"config__cases__baseline__procedure": {"prompt": "sentence"}}, "procedure.prompt is"),
    "sampling": ({"config__protocol": {"sampling": {"top_k": 5}}}, "protocol.sampling.top_k is not stated in fast-two"),
    "the same cell": ({"gpu__name": GPUS["fast"][0]}, "two runs claim one cell: give --machines if they come from"),
    "dtype": ({"model__dtype": "bfloat16"}, "dtype is float16 in fast-two and bfloat16 in slow-two"),
    "kind of weights": ({"model__weights": "checkpoint"}, "Llama-2-7B has random weights in fast-two and those of a c"),
    "weights": ({"model__digest": "3" * 64}, "digest of the weights is 000000000000 in fast-two and 333333333333 in"),
    "prompts": ({"prompt_digest": "3" * 64}, "digest of the prompts is 111111111111 in fast-two and 333333333333 in"),
    "requests": ({"config__sweep__ttft_iterations": 4}, "sweep.ttft_iterations is 8 in fast-two and 4 in slow-two"),
    "pauses": ({"config__sweep__pause_ms": 5}, "sweep.pause_ms is not stated in fast-two and 5 in slow-two"),
    "no shared length": ({"config__sweep__prompt_lengths": [50]}, "no prompt length is in every run: merge runs that"),
    "an experiment": ({"config__study": "attribution"}, "slow-two is no sweep over prompt lengths by one procedure"),
    "requests of two models": ({**ANOTHER_MODEL, "config__sweep__ttft_iterations": 4}, "sweep.ttft_iterations is 8 in"),
}  # fmt: skip


@pytest.mark.parametrize("kind", MIXTURES)
def test_mixtures_that_mean_nothing_are_refused_and_nothing_is_written(two, capsys, kind):
    changes, said = MIXTURES[kind]
    manifest(two / "slow-two", **changes)
    assert said in refused(capsys, two)
    assert not (two / "merged").exists()


def test_one_card_is_no_two_machines(two, capsys):
    name = GPUS["fast"][0]
    for folder, card in (("fast-two", "GPU-1"), ("slow-two", "GPU-2")):
        manifest(two / folder, gpu__name=name, placements=[{"gpu": None}, {"gpu": {"index": 0, "uuid": card}}])
    check(gather([two], machines=True))
    manifest(two / "slow-two", placements=[{"gpu": {"index": 0, "uuid": "GPU-1"}}])
    said = refused(capsys, two, "--machines")
    assert "fast-two and slow-two are both Llama-2-7B on the card GPU-1, so that they come from one machine" in said
    assert "give --machines if they come from two machines" in refused(capsys, two)


def test_two_models_may_differ_in_what_makes_them_two(two):
    manifest(two / "slow-two", **ANOTHER_MODEL, model__dtype="bfloat16", gpu__name=GPUS["fast"][0])
    found = gather([two])
    check(found)
    assert found.models == ["Llama-2-7B", "Other"]


FAULTS = {
    "truncated": ("samples.csv", lambda data: data[: data.rindex(b",decode,") + 9], "samples.csv"),
    "mistyped": ("ttft.csv", lambda data: data.replace(b"baseline,10,", b"baseline,ten,", 1), "is 'ten', not a number"),
    "not UTF-8": ("samples.csv", lambda data: b"\xff\xfe" + data, "is not UTF-8"),
    "empty": ("samples.csv", lambda data: b"", "is not a readable CSV"),
    "foreign CSV": ("decode.csv", lambda data: b"a,b\n1,2\n", "has no column"),
    "foreign JSON": ("manifest.json", lambda data: b"[]", "holds no JSON object"),
    "no JSON": ("manifest.json", lambda data: data[:100], "is not valid JSON"),
    "an empty object": ("manifest.json", lambda data: b"{}", "has no "),
    "attempts in words": (
        "manifest.json", lambda data: data.replace(b"{", b'{"attempts": ["x"],', 1), "in attempts is 'x', not an",
    ),
    "neighbours in words": ("manifest.json", lambda data: data.replace(b"{", b'{"neighbours": "two",', 1), "neigh"),
    "no warnings but null": (
        "manifest.json", lambda data: data.replace(b"{", b'{"warnings": null,', 1), "warnings is 'None', not a list",
    ),
    "placements in words": (
        "manifest.json", lambda data: data.replace(b"{", b'{"placements": ["x"],', 1), "in placements is 'x', not an",
    ),
    "a length in words": (
        "manifest.json", lambda data: data.replace(b'engths": [10', b'engths": ["ten"', 1), "lengths is",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", FAULTS)
def test_a_damaged_run_is_refused_and_not_left_out(two, capsys, kind):
    name, how, said = FAULTS[kind]
    edit(name, how)(two / "slow-two")
    sentence = refused(capsys, two)
    assert said in sentence
    assert "slow-two" in sentence
    assert not (two / "merged").exists()


def test_what_is_no_sweep_is_refused(two, tmp_path, capsys):
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    fast, slow = two / "fast-two", two / "slow-two"
    for arguments, said in (
        ([tmp_path / "nothing"], "there is no folder"),
        (
            [tmp_path / "empty"],
            "is no run and has none directly in it: name the folder of a sweep or runs; left out: n",
        ),
        ([fast], "is the only run here: a merge takes two runs or more"),
        ([fast, slow], "--to is missing: with several runs named, give the folder"),
        ([fast, fast, "--to", tmp_path / "out"], "is named twice"),
        ([two, "--to", slow], "is the folder of a run, whose files stay as they are"),
        ([two, "--to", tmp_path / "file"], "is a file: give a folder"),
    ):
        assert said in refused(capsys, *arguments)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "file", "sweep"}


def test_two_that_share_a_plan_share_its_prompts_whoever_comes_first(two, capsys):
    """The first has other lengths, which alone would excuse other prompts."""
    third = two / "a-third"
    shutil.copytree(two / "fast-two", third)
    manifest(third, gpu__name="A third", config__sweep__prompt_lengths=[10], prompt_digest="5" * 64)
    manifest(two / "slow-two", prompt_digest="3" * 64)
    assert "digest of the prompts is" in refused(capsys, two)
