"""The machine below a run: its GPUs, their state and who else is on them, and locks on them."""
