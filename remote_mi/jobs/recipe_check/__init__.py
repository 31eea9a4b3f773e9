"""Checking that a recipe is a function of its inputs: on tiny models, and on one of your own."""
