"""The commands, one module each: they connect files, training, prediction and pictures, no more."""
