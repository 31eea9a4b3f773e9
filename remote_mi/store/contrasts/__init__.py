"""Two results side by side: paired differences, and whether two maps agree."""
