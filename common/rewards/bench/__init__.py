"""The bench: a reward function is tried on real rows before a run depends on it."""
