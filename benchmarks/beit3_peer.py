"""The peer, torchscale in eager PyTorch, on a GPU if there is one."""

import os
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import beit3_cases as cases
from benchmarks.beit3_cases import Case
from benchmarks.beit3_ours import HEADS, state
from benchmarks.suite_torch import DEVICE, synchronised


def prepare(case: Case) -> Callable[[], torch.Tensor]:
  """A function that runs the case once, and returns what it computes."""
  torch.set_num_threads(os.cpu_count() or 1)
  models = networks(case).to(DEVICE)
  if case.kind == "pretrain":
    compute = training_step(case, models.train())
  else:
    compute = forward(case, models["trunk"].eval())

  return synchronised(compute)


def forward(case: Case, trunk: Any) -> Callable[[], torch.Tensor]:
  """Encodes all tokens."""
  trunk = trunk.to(getattr(torch, case.dtype))
  x, tokens = _pixels(cases.images(case)), _tensor(cases.texts(case)).long()
  x = x.to(getattr(torch, case.dtype))
  text = {
    "textual_tokens": tokens,
    "text_padding_position": tokens == cases.PAD,
  }

  @torch.no_grad()
  def compute() -> torch.Tensor:
    given = {} if case.kind == "images" else text
    return trunk(visual_tokens=x, **given)["encoder_out"]

  return compute


def training_step(case: Case, models: Any) -> Callable[[], torch.Tensor]:
  """A step of the recipe, in autocast if not in float32."""
  config = cases.pretraining(case)
  batch = {
    name: (_pixels if name.endswith("_image") else _tensor)(array)
    for name, array in cases.batch_of(case).items()
  }
  optimizer = torch.optim.AdamW(
    models.parameters(),
    config.lr,
    (0.9, config.b2),
    config.eps,
    config.weight_decay,
  )
  dtype = getattr(torch, case.dtype)

  def step() -> torch.Tensor:
    optimizer.zero_grad()
    with torch.autocast(DEVICE, dtype, enabled=case.dtype != "float32"):
      kinds = ("image", "text", "pair")
      loss = sum(_loss(models, batch, kind) for kind in kinds)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(models.parameters(), config.clip_norm)
    optimizer.step()
    return loss.detach()

  return step


def _loss(models: Any, batch: dict[str, torch.Tensor], kind: str) -> Any:
  """Cross-entropy of masked patches, and of masked words."""
  of = lambda name: batch.get(f"{kind}_{name}")
  x, mask, tokens, words = of("image"), of("mask"), of("masked"), of("tokens")
  encoded = models["trunk"](
    textual_tokens=tokens if tokens is None else tokens.long(),
    visual_tokens=x,
    text_padding_position=None if words is None else words == cases.PAD,
    vision_masked_position=mask,
  )["encoder_out"]
  split = 0 if mask is None else mask.shape[1] + 1
  total = torch.zeros((), device=encoded.device)
  entropy = torch.nn.functional.cross_entropy
  if mask is not None:
    logits = models["image_head"](encoded[:, 1:split][mask])
    total = total + entropy(logits.float(), of("codes")[mask].long())
  if words is not None:
    hidden = of("word_mask")
    logits = models["text_head"](encoded[:, split:][hidden])
    total = total + entropy(logits.float(), words[hidden].long())
  return total


def networks(case: Case) -> torch.nn.ModuleDict:
  """The peer's trunk and heads with our weights."""
  from torchscale.architecture.config import EncoderConfig
  from torchscale.model.BEiT3 import BEiT3

  trunk = case.trunk
  tensors = {name: torch.tensor(x) for name, x in state(case).items()}
  model = BEiT3(
    EncoderConfig(
      img_size=case.size,
      patch_size=trunk.patch_size,
      vocab_size=trunk.vocab_size,
      encoder_embed_dim=trunk.width,
      encoder_attention_heads=trunk.num_heads,
      encoder_ffn_embed_dim=trunk.mlp_width,
      encoder_layers=trunk.num_layers,
      max_source_positions=trunk.text_positions,
      multiway=True,
      no_output_layer=True,
    )
  )
  below = {k.removeprefix("beit3."): v for k, v in tensors.items()}
  model.load_state_dict({k: v for k, v in below.items() if "head." not in k})
  models = torch.nn.ModuleDict({"trunk": model})
  for name in HEADS if case.kind == "pretrain" else ():
    weight = tensors[f"{name}.weight"]
    models[name] = torch.nn.Linear(*reversed(weight.shape))
    head = {"weight": weight, "bias": tensors[f"{name}.bias"]}
    models[name].load_state_dict(head)
  return models


def _tensor(array: Any) -> torch.Tensor:
  return torch.from_numpy(array).to(DEVICE)


def _pixels(array: Any) -> torch.Tensor:
  return _tensor(array).permute(0, 3, 1, 2).contiguous()
