"""A child that speaks the parent's protocol and misbehaves when told to; otherwise it is the real worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from harness import worker
from harness.job import read_job
from harness.schema import SAMPLES
from tests.fakes import FAILURES

FOUND = {
    "checkpoint": "nowhere", "digest": "d1", "weights_source": "random", "weight_bytes": 1000, "flops_per_token": 2000,
    "vocab_size": 1024, "read_bandwidth_tb_s": None, "matmul_tflop_s": None, "versions": {"python": "3"},
    "device_name": "stub", "shape": {"max_position_embeddings": 1024}, "seconds": {"calibrate": 0.5},
}  # fmt: skip


def send(descriptor: int, event: str, **fields: object) -> None:
    os.write(descriptor, json.dumps({"event": event, **fields}).encode() + b"\n")


def forge() -> None:
    print(json.dumps({"event": "verdict", "state": "ok"}), flush=True)


def misbehave(kind: str, descriptor: int, folder: Path) -> int:
    send(descriptor, "stage", stage="ttft")
    if kind == "forged":
        forge()
    elif kind == "forged_outcome":
        print(json.dumps({"event": "outcome", "state": "unavailable", "reason": "forged", "stage": "ttft"}), flush=True)
        return 3
    elif kind == "bad_outcome":
        send(descriptor, "outcome", state="ok", reason="", stage="ttft")
        time.sleep(60)
    elif kind == "two_outcomes":
        for said in ("the first", "the second"):
            send(descriptor, "outcome", state="failed", reason=said, stage="ttft")
        time.sleep(60)
    elif kind == "exit":
        print("about to leave", flush=True)
        return 3
    elif kind == "ok_then_exit":
        send(descriptor, "verdict", state="ok", reason="")
        return 5
    elif kind == "unavailable_then_exit":
        send(descriptor, "verdict", state="unavailable", reason="")
        return 4
    elif kind in ("header_only", "cold_only"):
        cold = f"{folder.name.partition('-')[0]},0,cold,10,10,0,5000,1.25,,,7,0,,,0\n" if kind == "cold_only" else ""
        (folder / "samples.csv").write_text(",".join(SAMPLES) + "\n" + cold)
        send(descriptor, "verdict", state="ok", reason="")
    elif kind == "no_samples":
        send(descriptor, "verdict", state="ok", reason="")
    elif kind == "garbage":
        os.write(descriptor, b"{not json\n")
        time.sleep(60)
    elif kind == "grandchild":
        child = subprocess.Popen(["sleep", "60"])
        (folder / "grandchild").write_text(str(child.pid))
        time.sleep(60)
    elif kind == "flood_events":
        while True:
            send(descriptor, "progress", stage="ttft", done=1, total=2)
    elif kind == "endless_event":
        while True:
            os.write(descriptor, b"x" * (1 << 16))
    elif kind == "bad_progress":
        send(descriptor, "progress", stage="ttft", done=1, total=2, median_ms="soon")
        time.sleep(60)
    elif kind == "deep":
        os.write(descriptor, b'{"event":' + b"[" * 200_000 + b"\n")
        time.sleep(60)
    elif kind == "unprintable":
        os.write(descriptor, b'{"event":"verdict","state":"failed","reason":"a\\ud800b\\u001b[2Jc\\u0000d"}\n')
    elif kind == "unknown_state":
        send(descriptor, "verdict", state="splendid")
    return 0


def main() -> int:
    descriptor = int(sys.argv[sys.argv.index("--events") + 1])
    if sys.argv[1] == "prepare":
        spec = json.loads(Path(sys.argv[2]).read_text())
        send(descriptor, "stage", stage="checkpoint", detail="stub")
        if spec["model"]["name"] == "endless":
            FAILURES["escape_and_hang"]("prepare")
        bad = spec["model"]["name"] == "unpreparable"
        state = {"state": "failed", "reason": "no such repository"} if bad else {"state": "ok", "reason": ""}
        send(descriptor, "verdict", **state, **FOUND)
        return int(bad)
    if sys.argv[1] == "judge":
        return worker.main()
    job, case, block = read_job(Path(sys.argv[2])), sys.argv[3], int(sys.argv[4])
    kind = job.cases[case].options.get("behaviour")
    return worker.main() if kind is None else misbehave(kind, descriptor, job.block_dir(case, block))


if __name__ == "__main__":
    raise SystemExit(main())
