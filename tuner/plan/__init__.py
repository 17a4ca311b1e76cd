"""A recipe and a machine in, a plan out: every value decided, checked and costed."""
