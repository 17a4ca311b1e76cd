"""Carry out a plan: build, train, score, export; rehearsals, chains, comparisons, sweeps."""
