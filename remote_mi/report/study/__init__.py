"""What a study says as a whole: its claims with their verdicts, and comparisons of its points."""
