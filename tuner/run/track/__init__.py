"""Trackers that follow a run: each has a process of its own, which reads metrics.jsonl."""
