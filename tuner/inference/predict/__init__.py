"""The rows of a file, answered with a model: text, labels or scores, one JSON line per row."""
