"""Train dense-output 2D and 3D ConvNets on CPUs."""
