"""BEiT v2 (Peng et al. 2022): its tokenizer, and pre-training with it."""
