"""Children, their events and ends, and the signals that ask a run to end."""
