"""BEiT (Bao et al. 2022): pre-training, fine-tuning, linear probes, tables."""
