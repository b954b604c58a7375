"""Many runs in one report: `python -m reports merge results/<sweep>`."""
