"""The real worker, whose referee ends as HF_TEST_REFEREE says, a variable that workers are given."""

from __future__ import annotations

import os
import sys

from harness import worker
from tests.fakes import FAILURES

if __name__ == "__main__":
    how = os.environ.get("HF_TEST_REFEREE")
    if sys.argv[1] == "judge" and how:
        FAILURES[how]("judge")
    raise SystemExit(worker.main())
