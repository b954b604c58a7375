"""Triton kernels of the lean Llama, compiled just in time on the GPU that runs them."""
