"""Inside a worker: what is asked of a case, the loop that times it, and where samples go."""
