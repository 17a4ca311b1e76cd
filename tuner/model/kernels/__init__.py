"""Layers and functions that replace slower ones."""
