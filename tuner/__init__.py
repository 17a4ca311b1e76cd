"""Fine-tune language models parameter-efficiently from a recipe."""

__version__ = "0.1.0"
