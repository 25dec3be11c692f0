"""First stages of LDM: Rombach et al. 2022, https://arxiv.org/abs/2112.10752."""
