"""Two runs, cell by cell: `python -m reports compare A B`."""
