"""A sweep over several GPUs: Hydra's launchers, which of them are refused, cores for runs beside each other."""
