"""The GPU: a fake one for tests without, and `python -m tests.gpu` for a real one."""
