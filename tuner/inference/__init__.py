"""A base with adapters that answers: `tuner chat` and `tuner serve`."""
