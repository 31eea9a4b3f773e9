"""Where results live: the cache (by key, shared by all projects) and the runs of a project.

Both write to a temporary file or folder, flush it to the disk and rename it, so that what can be
found is whole; both check what they read against its SHA-256. Nothing here unpickles.
"""
