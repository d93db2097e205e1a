"""Training: configuration, samples, the loop and its log."""
