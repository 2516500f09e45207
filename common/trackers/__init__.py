"""Experiment trackers that a run logs to next to TensorBoard and its own file: the knob ``TRACKERS``."""
