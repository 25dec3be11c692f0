"""The peer, transformers or timm in eager PyTorch, on a GPU if there is one."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import beit_cases as cases
from benchmarks.beit_cases import Case
from benchmarks.beit_ours import state
from benchmarks.suite_torch import DEVICE, synchronised
from jaxgen.convert.beit import transformers_layout
from jaxgen.convert.state import write_safetensors


def prepare(case: Case) -> Callable[[], torch.Tensor]:
  """A function that runs the case once, and returns what it computes."""
  torch.set_num_threads(os.cpu_count() or 1)
  model = network(case).to(DEVICE)
  x = torch.from_numpy(cases.images(case)).permute(0, 3, 1, 2).contiguous()
  x = x.to(DEVICE)
  if case.kind == "forward":
    dtype = getattr(torch, case.dtype)
    model, x = model.to(dtype).eval(), x.to(dtype)

    @torch.no_grad()
    def compute() -> torch.Tensor:
      found = model(x)
      return found if case.peer == "timm" else found.logits

  else:
    compute = training_step(case, model.train(), x)

  return synchronised(compute)


def training_step(
  case: Case, model: Any, x: torch.Tensor
) -> Callable[[], torch.Tensor]:
  """A step on the masked patches, in autocast if not in float32."""
  mask = torch.from_numpy(cases.masks(case)).to(DEVICE)
  tokens = torch.from_numpy(cases.tokens(case)).long().to(DEVICE)
  labels = tokens[mask]
  optimizer = make_optimizer(model)
  dtype = getattr(torch, case.dtype)

  def step() -> torch.Tensor:
    optimizer.zero_grad()
    with torch.autocast(DEVICE, dtype, enabled=case.dtype != "float32"):
      loss = model(x, bool_masked_pos=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), cases.CLIP_NORM)
    optimizer.step()
    return loss.detach()

  return step


def make_optimizer(model: Any) -> torch.optim.Optimizer:
  """AdamW, which decays neither vectors nor the class token."""
  decayed, others = [], []
  for name, p in model.named_parameters():
    kept = p.ndim == 1 or name.endswith("cls_token")
    (others if kept else decayed).append(p)
  groups = [
    {"params": decayed, "weight_decay": cases.WEIGHT_DECAY},
    {"params": others, "weight_decay": 0.0},
  ]
  return torch.optim.AdamW(groups, cases.LR)


def network(case: Case) -> Any:
  """The peer's network with our weights."""
  if case.peer == "timm":
    return _timm(case)
  import transformers

  transformers.utils.logging.disable_progress_bar()
  backbone = case.backbone
  config = transformers.BeitConfig(
    vocab_size=cases.NUM_TOKENS,
    num_labels=cases.NUM_CLASSES,
    image_size=case.size,
    patch_size=backbone.patch_size,
    hidden_size=backbone.width,
    num_hidden_layers=backbone.num_layers,
    num_attention_heads=backbone.num_heads,
    intermediate_size=backbone.mlp_width,
    layer_norm_eps=1e-6,
    drop_path_rate=0.0,
    use_mask_token=case.kind == "pretrain",
    use_shared_relative_position_bias=case.kind == "pretrain",
    use_relative_position_bias=case.kind == "forward",
  )
  kind: Any = transformers.BeitForImageClassification
  if case.kind == "pretrain":
    kind = transformers.BeitForMaskedImageModeling
  with tempfile.TemporaryDirectory() as folder:
    config.save_pretrained(folder)
    path = Path(folder) / "model.safetensors"
    write_safetensors(path, transformers_layout(state(case)))
    model, report = kind.from_pretrained(folder, output_loading_info=True)
  if wrong := [*report["missing_keys"], *report["unexpected_keys"]]:
    raise ValueError(f"transformers did not take {wrong[0]}")
  return model


def _timm(case: Case) -> Any:
  from timm.models.beit import Beit

  backbone = case.backbone
  model = Beit(
    img_size=case.size,
    patch_size=backbone.patch_size,
    num_classes=cases.NUM_CLASSES,
    embed_dim=backbone.width,
    depth=backbone.num_layers,
    num_heads=backbone.num_heads,
    mlp_ratio=backbone.mlp_width / backbone.width,
    init_values=0.1,
    use_abs_pos_emb=False,
    use_rel_pos_bias=True,
  )
  tensors = {k: torch.from_numpy(v) for k, v in state(case).items()}
  model.load_state_dict(tensors, strict=True)
  return model
