"""Checks of a stored run: `python -m harness validate results/<run>`."""
