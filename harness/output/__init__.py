"""What a run writes: records, the manifest, summaries, statistics, and which code it was."""
