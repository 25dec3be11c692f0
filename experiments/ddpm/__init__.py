"""DDPM: Ho, Jain & Abbeel 2020, https://arxiv.org/abs/2006.11239."""
