"""What the numbers of a figure say, in sentences: one file a shape of map.

Only cells that are told from their control, or from 0, are named, and every sentence can be checked
against the numbers that it gives.
"""
