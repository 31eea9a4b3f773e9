"""Storage of results: the runs of one project, and the cache that all projects share.

This package does not decide what is computed.

Runs and cache write to a temporary file or folder, flush it to disk and rename it, so readers never
see a partial one; both check what they read against its SHA-256. Nothing here unpickles.
"""
