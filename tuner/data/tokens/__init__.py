"""Rendered rows to token ids, examples and batches, with what was cut on the way."""
