"""A sweep over several GPUs: Hydra's launchers, which of them are refused, cores for runs beside each other."""

NOT_ALONE = "would time runs against each other on one GPU"
