"""The base model: found, described without its weights, loaded."""
