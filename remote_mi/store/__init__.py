"""What was computed and where it is kept: results, the runs of a project, the cache of all projects.

What is to be computed is not decided here.

Both write to a temporary file or folder, flush it to the disk and rename it, so that what can be
found is whole; both check what they read against its SHA-256. Nothing here unpickles.
"""
