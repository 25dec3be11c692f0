"""Diffusion, score-based models and BEiT in JAX, on one algebra."""

__version__ = "0.1.0"
