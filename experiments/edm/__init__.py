"""EDM (Karras et al. 2022)."""
