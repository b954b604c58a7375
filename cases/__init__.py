"""The measured systems, one file each: which parts are combined. No clock, no CSV, no arguments."""
