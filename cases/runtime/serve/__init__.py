"""A local low-latency server, and its small client: `python -m cases.runtime.serve`."""
