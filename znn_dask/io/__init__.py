"""Volumes and checkpoints: the files a run reads and writes. Knows nothing of networks."""
