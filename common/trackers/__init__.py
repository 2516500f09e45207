"""Experiment trackers that a run logs to beside TensorBoard and its own file: the knob ``TRACKERS``."""
