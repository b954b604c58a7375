"""Tests that need a CUDA GPU and Triton; `make test-gpu` runs them."""
