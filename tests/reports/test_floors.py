"""Floors of rows that no summary has: the same figures as the stored ones, and none where nothing was calibrated."""

import math
from dataclasses import replace

import pytest

from reports.floors import floor_ms, of_requests, of_step, of_sweep
from reports.run import load
from tests.synthetic import STORED


@pytest.fixture(scope="module")
def run():
    return load(STORED)


def test_floors_are_those_of_the_summaries(run):
    stored = run.ttft.drop_duplicates("prompt_length").set_index("prompt_length")["floor_ms"]
    assert len(stored) > 1
    assert [floor_ms(run, length) for length in stored.index] == pytest.approx(list(stored), rel=1e-8)
    assert of_sweep(run) == pytest.approx(stored.mean(), rel=1e-8)
    assert [of_step(run)] * len(run.decode) == pytest.approx(list(run.decode["floor_ms"]), rel=1e-8)


def test_of_pooled_requests_it_is_that_of_the_one_in_the_middle(run):
    timed = run.samples[run.samples["metric"] == "ttft"]
    lengths = sorted(timed["prompt_length"])
    assert of_requests(run, timed) == floor_ms(run, lengths[(len(lengths) - 1) // 2])
    assert math.isnan(of_requests(run, timed.head(0)))


@pytest.mark.parametrize("key", ["read_bandwidth_tb_s", "flops_per_token"])
def test_without_a_calibration_there_is_none(run, key):
    blind = replace(run, manifest=run.manifest | {key: None})
    assert math.isnan(floor_ms(blind, 10))
    assert math.isnan(of_sweep(blind))
