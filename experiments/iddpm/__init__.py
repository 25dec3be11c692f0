"""Improved DDPM (Nichol & Dhariwal 2021)."""
