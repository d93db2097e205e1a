"""Whole volumes: prediction tile by tile, and how good it is."""
