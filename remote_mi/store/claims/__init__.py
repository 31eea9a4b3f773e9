"""Claims: what is expected of numbers, said beforehand, and what the numbers say."""
