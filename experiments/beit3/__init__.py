"""BEiT-3: Wang et al. 2023, https://arxiv.org/abs/2208.10442."""
