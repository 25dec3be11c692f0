"""Writes beit_training.npz: steps of BEiT's pre-training and fine-tuning.

  PYTHONPATH=tests:BEIT python tests/data/make_beit_training.py

BEIT is the folder beit of microsoft/unilm. Its networks, groups of parameters,
optimizer and schedule are its own; what it imports of timm 0.3.2 and others is
given here by PyTorch, or not needed.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch
from seeded_weights import seeded_state

OPTIMIZERS = ("adafactor", "adahessian", "adamp", "lookahead", "nadam")
OPTIMIZERS += ("novograd", "nvnovograd", "radam", "rmsprop_tf", "sgdp")
for module in (
  *("timm", "timm.models", "timm.optim", "timm.utils", "tensorboardX"),
  *(f"timm.optim.{name}" for name in OPTIMIZERS),
  "modeling_discrete_vae",
):
  sys.modules[module] = MagicMock()
sys.modules["torch._six"] = SimpleNamespace(inf=float("inf"))
sys.modules["timm.models.registry"] = SimpleNamespace(
  register_model=lambda f: f
)
sys.modules["timm.models.layers"] = SimpleNamespace(
  drop_path=lambda x, rate, training: x,  # rates are 0
  to_2tuple=lambda x: (x, x),
  trunc_normal_=torch.nn.init.trunc_normal_,
)

from functools import partial

import optim_factory
from modeling_finetune import VisionTransformer
from modeling_pretrain import (
  VisionTransformerForMaskedImageModeling,
)
from utils import cosine_scheduler

SIZES = {
  "img_size": 16,
  "patch_size": 4,
  "embed_dim": 16,
  "depth": 3,
  "num_heads": 4,
  "mlp_ratio": 2,
  "qkv_bias": True,
  "norm_layer": partial(torch.nn.LayerNorm, eps=1e-6),
  "init_values": 0.1,
  "use_abs_pos_emb": False,
}
STEPS, BATCH, VOCABULARY, CLASSES = 4, 6, 16, 5
SCHEDULE = {"epochs": 1, "niter_per_ep": 8, "warmup_epochs": 1}
SCHEDULE |= {"warmup_steps": 2}


def filled(model):
  """The model with the weights of seeded_weights, and their shapes."""
  shapes = {
    k: tuple(v.shape)
    for k, v in model.state_dict().items()
    if not k.endswith("index")
  }
  state = seeded_state(shapes, 0)
  tensors = {k: torch.from_numpy(v) for k, v in state.items()}
  model.load_state_dict(tensors, strict=False)
  return model.train(), shapes


def run(model, loss_of, layer_decay, clip, lr, weight_decay):
  """What STEPS steps measure."""
  count = model.get_num_layers() + 2
  assigner = optim_factory.LayerDecayValueAssigner(
    [layer_decay ** (count - 1 - i) for i in range(count)]
  )
  args = SimpleNamespace(
    opt="adamw", weight_decay=weight_decay, lr=lr, opt_eps=1e-8
  )
  optimizer = optim_factory.create_optimizer(
    args, model, assigner.get_layer_id, assigner.get_scale
  )
  rates = cosine_scheduler(lr, lr / 100, **SCHEDULE)
  rows = []
  for step in range(STEPS):
    for group in optimizer.param_groups:
      group["lr"] = rates[step] * group["lr_scale"]
    outputs, targets, loss = loss_of(model, step)
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(
      model.parameters(), clip or float("inf")
    )
    optimizer.step()
    right = (outputs.argmax(-1) == targets).float().mean()
    rows.append([loss.item(), norm.item(), right.item()])
  return np.array(rows, np.float32)


def main() -> None:
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (STEPS, BATCH, 3, 16, 16)).astype(np.float32)
  masks = rng.random((STEPS, BATCH, 16)) < 0.4
  tokens = rng.integers(0, VOCABULARY, (STEPS, BATCH, 16))
  labels = rng.integers(0, CLASSES, (STEPS, BATCH))
  x, mask, token, label = map(torch.from_numpy, (images, masks, tokens, labels))
  entropy = torch.nn.CrossEntropyLoss()
  smoothed = torch.nn.CrossEntropyLoss(label_smoothing=0.1)

  def pretraining(model, step):
    logits = model(x[step], mask[step])
    targets = token[step][mask[step]]
    return logits, targets, entropy(logits, targets)

  def finetuning(model, step):
    logits = model(x[step])
    return logits, label[step], smoothed(logits, label[step])

  arrays = {
    "images": images.transpose(0, 1, 3, 4, 2),
    "masks": masks,
    "tokens": tokens.astype(np.int32),
    "labels": labels.astype(np.int32),
  }
  kinds = {
    "pretrain": (
      VisionTransformerForMaskedImageModeling(
        **SIZES, vocab_size=VOCABULARY, use_shared_rel_pos_bias=True
      ),
      (pretraining, 1.0, 1.0, 1e-2, 0.5),
    ),
    "finetune": (
      VisionTransformer(**SIZES, num_classes=CLASSES, use_rel_pos_bias=True),
      (finetuning, 0.65, None, 1e-2, 0.5),
    ),
  }
  for kind, (model, how) in kinds.items():
    model, shapes = filled(model)
    arrays[f"{kind}_names"] = np.array(list(shapes))
    arrays[f"{kind}_shapes"] = np.array(
      [(*s, 0, 0, 0, 0)[:4] for s in shapes.values()]
    )
    arrays[f"{kind}_steps"] = run(model, *how)
    print(kind, arrays[f"{kind}_steps"])
    state = model.state_dict()
    for name in shapes:
      arrays[f"{kind}/{name}"] = state[name].numpy()
  np.savez_compressed(Path(__file__).with_name("beit_training.npz"), **arrays)


if __name__ == "__main__":
  main()
