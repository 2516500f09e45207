"""What the five algorithm folders share: launching, run directories, metrics, the CPU backend."""
