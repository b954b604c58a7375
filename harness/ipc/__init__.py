"""The Unix-socket transport: it serves any case, and is itself a case to whoever calls."""
