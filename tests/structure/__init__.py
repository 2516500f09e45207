"""The structure of the tree, measured with the standard library: ``python -m tests.structure``."""
