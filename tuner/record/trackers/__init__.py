"""Experiment trackers: what of a run is sent to them, by one reader of its metrics.jsonl."""
