"""What the five algorithm folders share: launching, run directories, metrics, the CPU backend."""

__version__ = "0.2.0"  # the only place; pyproject.toml, run.json and --version read it
