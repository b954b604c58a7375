"""From the files of a run to tables, plots and a page; reads files only, runs nothing."""
