"""Tests of cases/runtime and of the cases made of it, on the CPU."""
