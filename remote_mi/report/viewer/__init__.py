"""The full-screen viewer: the terminal's figures with a cursor, and lists of runs and jobs."""
