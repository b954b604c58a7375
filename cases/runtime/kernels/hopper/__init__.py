"""Matrix products on Hopper's tensor cores: CUDA C++ compiled at run time, one kernel for each tile or product."""
