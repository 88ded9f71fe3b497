"""The weights: one network whose weights all architectures of a space share, and its training. Needs torch."""
