"""What `python -m tests.gpu` checks; their order is in tests/gpu/order.py."""
