"""Denoising diffusion implicit models (Song, Meng & Ermon 2021)."""
