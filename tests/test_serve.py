"""The server by hand: started as a user would, asked through its small client, text in and text out."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from cases.jit_cuda_graph import JitCudaGraph
from cases.runtime.serve.__main__ import main, parse
from cases.runtime.serve.ask import latencies
from cases.runtime.serve.text import Text
from cases.runtime.serve.where import claim, default_socket
from harness.contract import Plan, Sampling
from harness.settings.compose import ROOT, compose_raw, to_config

START_S = 120
PROMPT = [5, 6, 7, 8]
GREEDY = Sampling()


@pytest.fixture(scope="module")
def weights(tmp_path_factory, tiny_checkpoint):
    """A folder with tiny weights and a tokenizer of one word for each id."""
    folder = tmp_path_factory.mktemp("weights") / "words"
    shutil.copytree(tiny_checkpoint, folder)
    words = Tokenizer(WordLevel({"<unk>": 0, "</s>": 1, **{f"w{n}": n for n in range(2, 1024)}}, unk_token="<unk>"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def greedy(weights):
    """What the same case answers in this process."""
    options = to_config(compose_raw([])).cases["jit_cuda_graph"].options
    case = JitCudaGraph()
    case.prepare(Plan("jit_cuda_graph", str(weights), "cpu", "float32", 1024, options=options))

    def generate(prompt: list[int], count: int, sampling: Sampling = GREEDY) -> list[int]:
        case.use(sampling)
        return [case.prefill(prompt, count), *(case.decode() for _ in range(count - 1))]

    yield generate
    case.close()


@pytest.fixture(scope="module")
def server(weights):
    """A server process, ended by SIGTERM: it must leave nothing behind."""
    with tempfile.TemporaryDirectory(prefix="s") as short:
        path = Path(short) / "run" / "s"
        call = [sys.executable, "-m", "cases.runtime.serve", "--socket", str(path), "device=cpu", "model=checkpoint"]
        call += [f"model.weights={weights}", "model.dtype=float32", "cases.jit_cuda_graph.graph.largest=64"]
        process = subprocess.Popen(call, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + START_S
        while not path.exists() and process.poll() is None:
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)
        yield path
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        assert said.strip().endswith("stopped")
        assert not path.exists()


def ask(capsys, server, *arguments):
    """Exit code, standard output and standard error of the small client."""
    code = main([arguments[0], "--socket", str(server), *arguments[1:]])
    said = capsys.readouterr()
    return code, said.out, said.err


def ids(text: str) -> list[int]:
    return [int(number) for number in text.strip().split(",")]


@pytest.mark.parametrize("stream", [(), ("--no-stream",)], ids=["streamed", "whole"])
def test_ids_in_ids_out_as_the_case_itself_answers(capsys, server, greedy, stream):
    code, out, err = ask(capsys, server, "generate", "--prompt-ids", "5,6,7,8", "--new-tokens", "9", *stream)
    assert (code, ids(out), err) == (0, greedy(PROMPT, 9), "")


def test_text_in_text_out(capsys, server, greedy):
    wanted = greedy(PROMPT, 9)
    shown = wanted[: wanted.index(1)] if 1 in wanted else wanted
    code, out, _ = ask(capsys, server, "generate", "--prompt", "w5 w6 w7 w8", "--new-tokens", "9")
    assert (code, out.split()) == (0, [f"w{token}" if token else "<unk>" for token in shown])


def bytewise(folder: Path) -> list[bytes]:
    """A tokenizer whose every token is one byte, as sentence pieces fall back to; the byte of each id."""
    names = {"<unk>": 0, **{f"<0x{byte:02X}>": byte + 1 for byte in range(256)}}
    model = Tokenizer(BPE(vocab=names, merges=[], unk_token="<unk>", byte_fallback=True))
    model.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    PreTrainedTokenizerFast(tokenizer_object=model, unk_token="<unk>").save_pretrained(folder)
    return [b"", *(bytes([byte]) for byte in range(256))]


def test_characters_are_shown_whole_and_broken_ones_as_such(tmp_path):
    bytewise(tmp_path)
    for said in ("gr\u00fc\u00dfe \u4f60\u597d \U0001f600!", "a\nb"):
        text = Text(tmp_path)
        shown = [text.more(byte + 1) for byte in said.encode()]
        assert "".join(shown) + text.rest() == said
        assert all("\ufffd" not in part for part in shown)
    text = Text(tmp_path)
    data = b"ok\n" + bytes([0xFF, 0xC3, 0xE4, 0xBD]) + b" and on" + bytes([0xE4, 0xBD])
    shown = "".join(text.more(byte + 1) for byte in data)
    assert shown.startswith("ok\n")
    assert " and on" in shown
    assert "\ufffd" in text.rest()


def test_sampling_repeats_with_its_seed_and_is_that_of_the_case(capsys, server, greedy):
    arguments = ["generate", "--prompt-ids", "5,6,7,8", "--new-tokens", "9", "--temperature", "5", "--top-k", "50"]
    answers = [ids(ask(capsys, server, *arguments, "--seed", seed)[1]) for seed in ("3", "4", "3")]
    assert answers[0] == answers[2] == greedy(PROMPT, 9, Sampling("sample", 5.0, 50, 1.0, 3))
    assert answers[0] != answers[1]


def test_an_answer_ends_behind_a_stop_id_and_says_so(capsys, server, greedy):
    wanted = greedy(PROMPT, 9)
    stop = str(wanted[4])
    arguments = ["generate", "--prompt-ids", "5,6,7,8", "--new-tokens", "9", "--stop-ids", stop, "--timings"]
    code, out, err = ask(capsys, server, *arguments)
    end = wanted.index(wanted[4]) + 1
    assert (code, ids(out)) == (0, wanted[:end])
    pattern = rf"{end} tokens \(stop\); first token after [\d.]+ ms \(queue [\d.]+, engine [\d.]+\); [\d.]+ ms a later"
    assert re.match(pattern, err)


def test_several_clients_at_a_time_get_their_own_answers(server, greedy):
    found: dict[int, list[int]] = {}

    def client(first: int) -> None:
        call = ["generate", "--socket", str(server), "--prompt-ids", f"{first},9", "--new-tokens", "40"]
        done = subprocess.run([sys.executable, "-m", "cases.runtime.serve", *call], cwd=ROOT, stdout=subprocess.PIPE)
        found[first] = ids(done.stdout.decode())

    threads = [threading.Thread(target=client, args=(first,)) for first in (11, 12, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {first: greedy([first, 9], 40) for first in (11, 12, 13)}


def test_an_interrupt_cancels_the_answer(capsys, server):
    call = ["generate", "--socket", str(server), "--prompt-ids", "5", "--new-tokens", "1000"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cases.runtime.serve", *call], cwd=ROOT, stdout=subprocess.PIPE, bufsize=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(30) == 130
    assert len(ids((first + rest).decode())) < 1000
    _, out, _ = ask(capsys, server, "status")
    assert re.search(r"Cancelled, refused or failed +│ 1, \d", out)


def test_into_a_closed_pipe_the_answer_is_cancelled_without_a_word(server):
    call = f"{sys.executable} -m cases.runtime.serve generate --socket {server} --prompt-ids 5 --new-tokens 900"
    done = subprocess.run(["bash", "-c", f"{call} | head -c 1"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (len(done.stdout), done.stderr) == (1, "")


def test_clients_that_go_leave_no_descriptor_behind(server, capsys):
    status = ask(capsys, server, "status")[1]
    pid = re.search(r"up +│ (\d+),", status)[1]
    before = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    for _ in range(300):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(server))
            client.sendall(b"\0\0")
    assert ask(capsys, server, "status")[0] == 0
    # The last client to ask may not have been let go yet; three hundred would be seen.
    assert len(list(Path(f"/proc/{pid}/fd").iterdir())) < before + 10


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "-"), (2, "P50 1.00, slowest 2.50"), (99, "P50 1.00, slowest 2.50"), (100, "P50 1.00, P99 2.50")],
)
def test_a_p99_of_few_requests_is_called_the_slowest(count, said):
    assert latencies(count, 1000, 2500) == said


def test_status_says_what_is_served(capsys, server):
    code, out, _ = ask(capsys, server, "status")
    assert code == 0
    for part in ("lean Llama, torch", "TTFT with queue", "Graphs: hits, misses", "Clients (this one too), waiting"):
        assert part in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--prompt-ids", "1,x"], "--prompt-ids takes token ids"),
        (["--prompt-ids", "1024"], "the model has ids from 0 to 1023"),
        (["--prompt-ids", "-3"], "prompt must hold integers from 0"),
        (["--prompt-ids", "1", "--new-tokens", "0"], "--new-tokens must be at least 1"),
        (["--prompt-ids", "1", "--new-tokens", "5000"], "need a context of 1 to 1024"),
        (["--prompt-ids", "1", "--temperature", "0"], "temperature must be a number from 1e-06 on"),
        (["--prompt-ids", "1", "--top-k", "5"], "need --temperature"),
        (["--prompt-ids", "1", "--temperature", "1", "--top-p", "2"], "top_p must be above 0 and at most 1"),
        (["--prompt", ""], "--prompt is empty"),
        (["--prompt", "\udcff"], "--prompt is no text"),
    ],
)
def test_a_mistake_is_one_sentence(capsys, server, arguments, says):
    code, out, err = ask(capsys, server, "generate", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_a_second_server_at_the_same_place_is_refused(capsys, server):
    code, _, err = ask(capsys, server, "serve", "model=tiny", "device=cpu")
    assert (code, "a server listens at" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--case", "jit_cuda_grap"], "did you mean 'jit_cuda_graph'?"),
        (["model=tinny"], "tinny"),
        (["cases.jit_cuda_graph.python=python3"], "start the server with that interpreter"),
        (["cases.jit_cuda_graph.graph.max_graphs=-1"], "max_graphs"),
        (["--context", "5000"], "--context must be from 1 to the model's 1024 positions"),
    ],
)
def test_a_server_that_can_not_be_is_refused_in_one_sentence(capsys, tmp_path, monkeypatch, arguments, says):
    monkeypatch.setenv("LATENCY_CACHE", str(tmp_path / "cache"))
    with tempfile.TemporaryDirectory(prefix="s") as short:
        settings = ["model=tiny", "device=cpu"] if not any("model=" in item for item in arguments) else ["device=cpu"]
        code = main(["--socket", f"{short}/s", *settings, *arguments])
        err = capsys.readouterr().err.strip().splitlines()
    assert (code, err[-1].startswith("error: ")) == (2, True)
    assert says in err[-1]


def test_overrides_may_stand_before_between_and_behind_the_options():
    found = parse(["serve", "model=tiny", "--socket", "/s", "device=cpu", "--context", "9", "seed=3"])
    assert (found.overrides, str(found.socket), found.context) == (["model=tiny", "device=cpu", "seed=3"], "/s", 9)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["serve", "model=tiny", "--sockt", "x"], "--sockt"), (["status", "model=tiny"], "model=tiny")],
)
def test_what_is_no_option_and_no_override_is_refused(capsys, arguments, says):
    with pytest.raises(SystemExit, match=r"^2$"):
        parse(arguments)
    assert f"unrecognized arguments: {says}" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "why"), [("s", "No such file"), ("s" * 200, "too long")])
def test_nobody_listens(capsys, tmp_path, name, why):
    code, _, err = ask(capsys, tmp_path / name, "status")
    assert (code, *(part in err for part in ("no server listens", "serve --socket", why))) == (2, True, True, True)


def test_what_an_ended_server_left_is_replaced_and_anything_else_is_not(tmp_path):
    with tempfile.TemporaryDirectory(prefix="s") as short:
        path = Path(short) / "s"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
        claim(path)
        assert not path.exists()
        path.write_text("a file")
        with pytest.raises(ValueError, match="is there and no socket"):
            claim(path)
    with tempfile.TemporaryDirectory(prefix="s") as short:
        Path(short).chmod(0o755)
        with pytest.raises(ValueError, match="closed to others"):
            claim(Path(short) / "s")
    with pytest.raises(ValueError, match="is longer than 107 bytes"):
        claim(tmp_path / ("x" * 120))


def test_the_socket_is_private_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert default_socket() == tmp_path / "llm-latency-serve" / "socket"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    path = default_socket()
    (path.parent.parent / "llm-latency").mkdir(parents=True)  # where checkpoints lie, open as caches are
    claim(path)
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.is_relative_to(tmp_path)
    assert path.parent.stat().st_uid == os.getuid()
