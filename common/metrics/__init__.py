"""What the figures of a run are called, what they mean, and how they are written."""
