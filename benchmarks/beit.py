"""BEiT against transformers and timm: a forward pass, a pre-training step.

  python -m benchmarks.beit            # BEiT-B in float32, for a CPU
  python -m benchmarks.beit --full     # BEiT-B and -L in bfloat16, for a GPU
  python -m benchmarks.beit --quick    # a minute, numbers without meaning

A step of pre-training is the forward and backward pass, clipping and AdamW;
ours also averages the parameters. In bfloat16 the peer's forward pass has its
weights in bfloat16 and its training is autocast; ours keeps parameters in
float32 in both. `benchmarks.suite` says what is reported. Needs torch and
transformers.
"""

from benchmarks import suite

if __name__ == "__main__":
  suite.main("beit", __doc__)
