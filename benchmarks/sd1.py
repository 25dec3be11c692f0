"""Stable Diffusion 1 against diffusers: U-Net, decoder, text to image.

  python -m benchmarks.sd1            # reduced networks, for a CPU
  python -m benchmarks.sd1 --full     # 512x512 in bfloat16, for a GPU
  python -m benchmarks.sd1 --quick    # a minute, numbers without meaning

On a GPU the peer's networks are compiled, too (torch.compile).
`benchmarks.suite` says what is reported. Needs torch, diffusers and
transformers.
"""

from benchmarks import suite

if __name__ == "__main__":
  suite.main("sd1", __doc__)
