"""Statistics of a few samples: intervals that keep their level, and tests by randomisation.

Here belong functions of arrays alone, without a word of the field. Which of them is used for which
output, and why, is in docs/statistics.md with the simulated coverage.
"""

#: Values this small relative to the largest of their kind are 0 up to rounding.
ROUNDING = 1e-6
