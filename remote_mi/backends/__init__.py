"""Running a recipe where the model is: on this machine or a server. `base` defines the protocol.

Which backend runs a job, and what is kept of its result, is decided elsewhere.
"""
