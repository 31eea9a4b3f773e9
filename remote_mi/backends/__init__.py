"""Where a job executes: this machine, or an NDIF server. `base` has the protocol they share."""
