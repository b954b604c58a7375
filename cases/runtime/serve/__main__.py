"""`python -m cases.runtime.serve [generate | status | stop] ...`: serve a model on this machine, and ask it.

python -m cases.runtime.serve model=llama2_7b                       load it and serve it
python -m cases.runtime.serve generate --prompt "Once upon a time"  stream an answer
python -m cases.runtime.serve status                                clients, counters, latencies
python -m cases.runtime.serve stop                                  end the server
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from cases.runtime.serve.where import default_socket

USERS_MISTAKE, INTERRUPTED, BROKEN_PIPE = 2, 130, 141


def parser() -> argparse.ArgumentParser:
    """The command line. Without a command it serves: all that is no option is an override of the configuration."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--socket", type=Path, help="the server's Unix socket; its folder must be closed to others")
    whole = argparse.ArgumentParser(
        prog="python -m cases.runtime.serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = whole.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", parents=[shared], help="load a model and serve it (the default)")
    serve.add_argument("--case", default="jit_cuda_graph", help="which case of the benchmark answers")
    serve.add_argument("--context", type=int, help="longest prompt and answer together (default: 4096, or the model's)")
    serve.add_argument("overrides", nargs="*", help="as for python -m harness: model=tiny device=cpu ...")
    generate = commands.add_parser("generate", parents=[shared], help="ask for an answer")
    prompt = generate.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", help="text, for a model with a tokenizer")
    prompt.add_argument("--prompt-ids", help="token ids, as in 1,543,318")
    generate.add_argument("--new-tokens", type=int, default=64, help="the most tokens of the answer")
    generate.add_argument("--temperature", type=float, help="sample, with logits divided by this (default: greedy)")
    generate.add_argument("--top-k", type=int, default=0, help="sample among the k likeliest; 0 is off")
    generate.add_argument("--top-p", type=float, default=1.0, help="sample among the likeliest of this mass; 1 is off")
    generate.add_argument("--seed", type=int, default=0, help="of the sampling: the same seed gives the same answer")
    generate.add_argument("--stop-ids", default="", help="ids that end the answer (default: the tokenizer's end)")
    generate.add_argument("--no-stream", action="store_true", help="print the answer when all of it is there")
    generate.add_argument("--timings", action="store_true", help="print TTFT and time a token to standard error")
    commands.add_parser("status", parents=[shared], help="how the server is")
    commands.add_parser("stop", parents=[shared], help="end the server")
    return whole


COMMANDS = ("serve", "generate", "status", "stop")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line, overrides wherever they stand: argparse takes none behind an option in their middle."""
    whole = parser()
    args, more = whole.parse_known_args(arguments)
    strange = [one for one in more if args.command != "serve" or one.startswith("-")]
    if strange:
        whole.error(f"unrecognized arguments: {' '.join(strange)}")
    if more:
        args.overrides += more
    return args


def main(arguments: Sequence[str]) -> int:
    """0 when all went well, 1: the server failed, 2: a user's mistake, 130: interrupted, 141: the pipe was closed."""
    named = arguments if arguments and arguments[0] in (*COMMANDS, "-h", "--help") else ["serve", *arguments]
    args = parse(named)
    try:
        args.socket = args.socket or default_socket()
        if args.command == "serve":
            from cases.runtime.serve.start import serve

            return serve(args.overrides, args.case, args.socket, args.context)
        from cases.runtime.serve import ask

        return int(getattr(ask, args.command)(args))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return USERS_MISTAKE
    except RuntimeError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the answer has gone; what is still buffered must not fail once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
