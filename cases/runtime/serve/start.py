"""Load a model as the benchmark does, and serve it until told to stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from cases.runtime.serve.where import claim
from harness.contract import Case, Plan, Sampling, Unavailable, Unsupported
from harness.ipc.answers import Served, freeze
from harness.ipc.channel import spin_here
from harness.ipc.connection import Limits
from harness.ipc.server import listen
from harness.ipc.service import Service
from harness.loader import load, load_case
from harness.machine.gpu import Gpu, list_gpus, visible
from harness.settings import preset
from harness.settings.compose import compose_raw, to_config
from harness.settings.config import RunConfig
from harness.settings.machine import check_checkpoint, check_free, check_machine, check_memory
from harness.settings.sentences import nearest
from harness.settings.validate import check, weights_folder

CONTEXT = 4096
"""Positions of the KV cache where the model allows more and nobody asks for more."""


def serve(overrides: Sequence[str], case: str, path: Path, context: int | None) -> int:
    """Prepare the case and answer clients until SIGINT, SIGTERM or a client's `stop`; 0, or 1 when it can't be made.

    Raises:
        ValueError: a user's mistake, in one sentence, before anything is loaded.
    """
    console = Console(stderr=True, highlight=False)
    config, gpu = settle(overrides, case, console)
    claim(path)
    try:
        served = prepare(config, case, gpu, context, console)
    except (Unavailable, Unsupported) as error:
        console.print(f"failed: {error}", markup=False)
        return 1
    try:
        listener = listen(path)
    except OSError as error:
        raise ValueError(f"--socket {path} can't be listened at ({error.strerror}): give another path") from error
    try:
        service = Service("", served, Limits(), spin_here().server_us)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _signal, _frame: service.stop())
        service.listen(listener)
        console.print(f"serving {served.model} at {path}", markup=False, soft_wrap=True)
        service.run()
    finally:
        listener.close()
        path.unlink(missing_ok=True)
    console.print("stopped")
    return 0


def settle(overrides: Sequence[str], case: str, console: Console) -> tuple[RunConfig, Gpu | None]:
    """The checked configuration, and the GPU that it uses. Raises ValueError in one sentence."""
    if not any(override.lstrip("+~").startswith(("model=", "device=", "gpu=")) for override in overrides):
        gpus, why = list_gpus()
        chosen, _ = preset.choose(visible(gpus), why or "CUDA_VISIBLE_DEVICES hides all")
        if chosen == ["experiment=smoke"]:
            console.print("no GPU with room for the default model: serving model=tiny on the CPU")
            chosen = ["model=tiny", "device=cpu"]
        overrides = [*chosen, *overrides]
    config = to_config(compose_raw(overrides))
    if case not in config.cases:
        raise ValueError(f"there is no case {case}{nearest(case, list(config.cases))} ({', '.join(config.cases)})")
    config.run = [case]
    check(config)
    if config.cases[case].python is not None:
        raise ValueError(f"cases.{case}.python can't be set here: start the server with that interpreter instead")
    check_checkpoint(config.model)
    gpu = check_machine(config)
    return config, gpu and check_free(config)


def prepare(config: RunConfig, case: str, gpu: Gpu | None, context: int | None, console: Console) -> Served:
    """Make or find the weights, load, compile and capture.

    Raises:
        ValueError: weights, shape, memory or context that do not do.
        Unavailable, Unsupported: as the case raises them.
    """
    # Before anything asks CUDA for its devices.
    os.environ["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    os.environ["CUDA_VISIBLE_DEVICES"] = "" if gpu is None else str(gpu.index)
    model = config.model
    local = weights_folder(model)
    spec = {**asdict(model), "weights": model.weights if local is None else str(local)}
    console.print(f"weights of {model.name} ({model.weights})", markup=False, soft_wrap=True)
    resolve = load("cases.runtime.checkpoint.resolve")
    folder, shape = resolve(spec, Path(config.cache).expanduser().resolve(), config.seed)
    if gpu is not None:
        check_memory(gpu, asdict(shape), model.dtype)
    entry = config.cases[case]
    plan = Plan(
        case=case,
        checkpoint=str(folder),
        device=cast(Any, config.device),
        dtype=cast(Any, model.dtype),
        context=positions(context, shape.max_position_embeddings),
        sampling=Sampling(**{**asdict(entry.sampling), "seed": config.seed}),
        options=entry.options,
    )
    console.print(f"{entry.title}: load, compile, capture", markup=False)
    engine = load_case(entry.target)()
    setup = engine.prepare(plan)
    compile_sampling(engine, plan.sampling, console)
    freeze()
    seconds = f"{setup.load_s:.1f} s, {setup.compile_s:.1f} s, {setup.capture_s:.1f} s"
    console.print(f"{setup.engine} ({seconds})", markup=False, soft_wrap=True)
    name = f"{model.name}, {model.dtype}, {config.device}, context {plan.context}"
    return Served(engine, setup, name, str(folder), shape.vocab_size, plan.sampling)


def compile_sampling(engine: Case, usual: Sampling, console: Console) -> None:
    """Have each form of sampling compiled now, which a client's first sampled request would else wait for.

    A case that can't change its sampling has nothing to compile; it refuses the requests that want another.
    """
    if "sample" not in engine.capabilities.samplers:
        return
    console.print("sampling: compile")
    with suppress(Unsupported):
        for top_k, top_p in ((0, 1.0), (1, 1.0), (0, 0.5), (1, 0.5)):
            engine.use(Sampling("sample", 1.0, top_k, top_p))
        engine.use(usual)


def positions(asked: int | None, most: int) -> int:
    """Positions of the KV cache. Raises ValueError for what the model does not have."""
    if asked is None:
        return min(CONTEXT, most)
    if not 1 <= asked <= most:
        raise ValueError(f"--context must be from 1 to the model's {most} positions, not {asked}")
    return asked
