"""Adapters on disk: found, read, inspected."""
