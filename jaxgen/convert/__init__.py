"""Published checkpoints to parameters and back, one file per release."""
