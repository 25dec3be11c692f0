"""TFDS builders of our own: real images that need no download."""
