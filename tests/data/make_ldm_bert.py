"""Writes ldm_bert.npz; see PROVENANCE.md.

PYTHONPATH=tests python tests/data/make_ldm_bert.py CHECKOUT
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])

import torch
from ldm.modules.x_transformer import Encoder, TransformerWrapper
from random_openai import random_state

WIDTH, DEPTH, VOCABULARY, LENGTH = 48, 2, 40, 11

net = TransformerWrapper(
  num_tokens=VOCABULARY,
  max_seq_len=LENGTH,
  attn_layers=Encoder(dim=WIDTH, depth=DEPTH),
).eval()
shapes = {k: tuple(v.shape) for k, v in net.state_dict().items()}
state = random_state(shapes)
net.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})

rng = np.random.RandomState(1)
tokens = rng.randint(0, VOCABULARY, (3, LENGTH))
target = rng.standard_normal((3, LENGTH, WIDTH)).astype(np.float32)
out = net(torch.from_numpy(tokens), return_embeddings=True)
((out - torch.from_numpy(target)) ** 2).mean().backward()
grads = {
  k: p.grad.numpy() for k, p in net.named_parameters() if p.grad is not None
}
lines = random_state({k: g.shape for k, g in grads.items()}, seed=2)
np.savez_compressed(
  Path(__file__).with_name("ldm_bert.npz"),
  shapes=np.array([f"{k} {v}" for k, v in shapes.items()]),
  tokens=tokens,
  target=target,
  out=out.detach().numpy(),
  gradient_names=np.array(sorted(grads)),
  gradients=np.float32(
    [
      (np.linalg.norm(grads[k]), np.vdot(grads[k], lines[k]))
      for k in sorted(grads)
    ]
  ),
)
