"""Stable Diffusion 1 (Rombach et al. 2022): images from text and images."""
