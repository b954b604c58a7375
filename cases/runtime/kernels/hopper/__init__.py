"""Matrix products for a prefill on Hopper GPUs: CUDA C++ compiled at run time, one kernel for each tile."""
