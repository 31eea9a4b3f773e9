"""Running a recipe where a model is: here, or on an NDIF server. `base` has the protocol they share.

Which of them takes a job, and what is kept of it, is not decided here.
"""
