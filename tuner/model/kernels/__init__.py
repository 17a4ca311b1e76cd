"""Layers and functions that take the place of slower ones."""
