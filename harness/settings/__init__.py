"""What a run is asked to be: configuration, its checks, the plan."""
