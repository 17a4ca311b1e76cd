"""Generating answers with a base and adapters: `tuner chat` and `tuner serve`."""
