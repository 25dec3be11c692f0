"""Discrete autoencoders: DALL-E's (Ramesh et al. 2021) and BEiT's own."""
