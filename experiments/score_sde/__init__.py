"""Score SDE: Song et al. 2021, https://arxiv.org/abs/2011.13456."""
