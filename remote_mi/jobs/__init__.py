"""From a job to its result: build, look up, plan, execute, keep. Not how a backend runs it."""
