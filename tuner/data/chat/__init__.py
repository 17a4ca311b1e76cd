"""The model's chat template: rendered, probed, and where the answers are in its text."""
