"""The harness's launchers where Hydra takes launchers from."""
