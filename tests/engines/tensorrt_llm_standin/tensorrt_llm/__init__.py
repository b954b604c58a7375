"""A stand-in for TensorRT-LLM, for the tests of its case alone: the names of a release, and a stream, but no engine.

It lies where no run looks for packages, and refuses to be imported without a variable that no run passes on to its
workers. It raises on every name that was not read in the public source of the release that it stands for; where
each name was read stands in cases/tensorrt_llm.md. Its "model" is a hash of the tokens so far.
"""

import os

RELEASE = os.environ.get("TENSORRT_LLM_STANDIN", "")
if RELEASE not in ("1.0.0", "1.1.0", "1.2.0"):
    raise ImportError("this tensorrt_llm is the tests' stand-in, and no run may use it")
__version__ = RELEASE

from .llmapi import LLM, SamplingParams  # noqa: E402  a refused import loads nothing

__all__ = ["LLM", "SamplingParams", "__version__"]
