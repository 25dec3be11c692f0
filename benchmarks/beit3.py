"""BEiT-3 against torchscale: encoding images and pairs, a pre-training step.

  python -m benchmarks.beit3            # BEiT-3-B in float32, for a CPU
  python -m benchmarks.beit3 --full     # BEiT-3-B in bfloat16, for a GPU
  python -m benchmarks.beit3 --quick    # a minute, numbers without meaning

Texts have 14 words by mean and room for 64, as captions of COCO have in the
released code; "packed" are the cases in which our dense layers skip the padding
(`jaxgen.nn.packing`), what the peer computes being the same. A step of
pre-training is that of `experiments.beit3.pretrain` on given visual tokens: the
forward and backward pass of images, of texts and of pairs, logits where
something is masked, clipping and AdamW. In bfloat16 the peer's forward pass has
its weights in bfloat16 and its training is autocast; ours keeps parameters in
float32 in both. `benchmarks.suite` says what is reported. Needs torch,
torchscale and timm.
"""

from benchmarks import suite

if __name__ == "__main__":
  suite.main("beit3", __doc__)
