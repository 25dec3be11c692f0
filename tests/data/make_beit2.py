"""Writes beit2.npz: outputs of BEiT v2's original code, and of its teachers.

  PYTHONPATH=tests python tests/data/make_beit2.py UNILM_CHECKOUT DINO_CHECKOUT

microsoft/unilm's folder beit2, with its copy of CLIP, and facebookresearch's
dino, on torch and einops. What they import besides and do not need is replaced
by stand-ins: timm's initialisers and registry, and the module that downloads
teachers.
"""

import importlib.util
import sys
import types
from functools import partial
from pathlib import Path

import numpy as np
import torch
from seeded_weights import seeded_state
from torch import nn

SIZE, PATCH, WIDTH, HEADS, CODES, DIM, TARGET = 32, 8, 32, 4, 24, 8, 12
NORM = partial(nn.LayerNorm, eps=1e-6)
BATCHES = 3
GRADIENTS = (
  "encoder.patch_embed.proj.weight",
  "encoder.blocks.1.attn.q_bias",
  "encode_task_layer.0.weight",
  "encode_task_layer.2.bias",
  "decoder.pos_embed",
  "decode_task_layer.2.weight",
)


def stand_in(name: str, **content) -> types.ModuleType:
  module = types.ModuleType(name)
  module.__dict__.update(content)
  sys.modules[name] = module
  return module


def from_file(name: str, path: Path):
  spec = importlib.util.spec_from_file_location(name, path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def seeded(model: nn.Module, name: str, arrays: dict) -> nn.Module:
  """Draws a model's weights, and stores their names and shapes."""
  shapes = {
    k: tuple(v.shape)
    for k, v in model.state_dict().items()
    if not k.endswith("relative_position_index")
  }
  state = seeded_state(shapes, 0)
  codes = state.get("quantize.embedding.weight")
  if codes is not None:
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    state["quantize.cluster_size"][:] = 0
    state["quantize.embedding.initted"][:] = 1
  tensors = {k: torch.from_numpy(np.array(v)) for k, v in state.items()}
  model.load_state_dict(tensors, strict=False)
  arrays[f"{name}_names"] = np.array(list(shapes))
  arrays[f"{name}_shapes"] = np.array(
    [(*s, 0, 0, 0, 0)[:4] for s in shapes.values()]
  )
  return model


def tokenizer(modeling, arrays: dict, rng) -> None:
  """Three batches of training without an optimizer, then one of evaluation."""
  config = {
    "img_size": SIZE,
    "patch_size": PATCH,
    "in_chans": 3,
    "num_classes": 0,
    "embed_dim": WIDTH,
    "depth": 2,
    "num_heads": HEADS,
    "qkv_bias": True,
    "norm_layer": NORM,
    "init_values": 0.0,
    "use_mean_pooling": True,
  }
  decoder = {"img_size": SIZE // PATCH, "patch_size": 1, "in_chans": DIM}
  model = modeling.VQKD(
    config,
    config | decoder | {"depth": 1},
    *(CODES, DIM),
    quantize_kmeans_init=False,
    teacher_model_type="None",
    decoder_out_dim=TARGET,
  )
  seeded(model, "vqkd", arrays)
  x = rng.uniform(0, 1, (BATCHES + 1, 2, 3, SIZE, SIZE)).astype(np.float32)
  # Dark and bright parts, that the patches differ.
  x *= (
    rng.uniform(0, 1, (BATCHES + 1, 2, 1, 4, 4))
    .astype(np.float32)
    .repeat(8, -1)
    .repeat(8, -2)
  )
  target = rng.standard_normal((BATCHES + 1, 2, 16, TARGET)).astype(np.float32)
  arrays |= {"vqkd_x": x.transpose(0, 1, 3, 4, 2), "vqkd_target": target}
  found = {name: [] for name in ("rec", "tokens", "losses", "codes", "usage")}
  for i in range(BATCHES + 1):
    model.train(i < BATCHES)
    images = model.pre_process(torch.from_numpy(x[i]))
    z_q, indices, quantizer_loss = model.encode(images)
    rec = model.decode(z_q)
    rec_loss = model.calculate_rec_loss(rec, torch.from_numpy(target[i]))
    if i == 0:
      model.zero_grad()
      (rec_loss + quantizer_loss).backward()
      for name in GRADIENTS:
        grad = model.get_parameter(name).grad
        arrays[f"vqkd_grad_{name}"] = grad.numpy().copy()
    found["rec"].append(rec.detach().numpy())
    found["tokens"].append(indices.reshape(2, -1).numpy())
    found["losses"].append([rec_loss.item(), quantizer_loss.item()])
    found["codes"].append(model.quantize.embedding.weight.numpy().copy())
    found["usage"].append(model.quantize.cluster_size.numpy().copy())
  arrays |= {f"vqkd_{k}": np.array(v) for k, v in found.items()}
  clip, imagenet = modeling.ScalingLayerForClip(), modeling.ScalingLayerForIM()
  for name, scaling in (("clip", clip), ("imagenet", imagenet)):
    y = scaling(torch.from_numpy(x[0] * 2 - 1))[:, :, ::8, ::8]
    arrays[f"scaled_{name}"] = y.permute(0, 2, 3, 1).numpy()


def quantizer(module, arrays: dict, rng) -> None:
  """k-means, then five updates of a codebook that is not all used."""
  z = rng.standard_normal((6, 2, DIM, 3, 4)).astype(np.float32)
  arrays["ema_z"] = z.transpose(0, 1, 3, 4, 2)
  module.sample_vectors = lambda samples, num: samples[:num]
  rows = torch.from_numpy(arrays["ema_z"][0].reshape(-1, DIM))
  means, _ = module.kmeans(module.l2norm(rows), 10, 10, use_cosine_sim=True)
  arrays["ema_kmeans"] = means.numpy()
  model = module.NormEMAVectorQuantizer(30, DIM, 1.0, decay=0.9)
  start = rng.standard_normal((30, DIM)).astype(np.float32)
  start = module.l2norm(torch.from_numpy(start))
  model.embedding.weight.data.copy_(start)
  arrays["ema_start"] = start.numpy()
  found = {name: [] for name in ("codes", "usage", "z_q", "tokens", "losses")}
  for batch in z[1:]:
    z_q, loss, indices = model(torch.from_numpy(batch))
    found["z_q"].append(z_q.permute(0, 2, 3, 1).numpy())
    found["tokens"].append(indices.reshape(2, 3, 4).numpy())
    found["losses"].append(loss.item())
    found["codes"].append(model.embedding.weight.numpy().copy())
    found["usage"].append(model.cluster_size.numpy().copy())
  arrays |= {f"ema_{k}": np.array(v) for k, v in found.items()}


def aggregation(modeling, arrays: dict, rng) -> None:
  """Pre-training networks with a shared head, and with a separate one."""
  x = rng.standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
  mask = rng.random((2, 16)) < 0.4
  arrays |= {"mim_x": x.transpose(0, 2, 3, 1), "mim_mask": mask}
  for name, shared in (("shared", True), ("separate", False)):
    model = modeling.VisionTransformerForMaskedImageModelingCLS(
      *(SIZE, PATCH, 3, 16, WIDTH, 3, HEADS),
      norm_layer=NORM,
      init_values=0.1,
      use_abs_pos_emb=False,
      use_shared_rel_pos_bias=True,
      early_layers=2,
      head_layers=2,
      shared_lm_head=shared,
    )
    seeded(model, f"mim_{name}", arrays).eval()
    with torch.no_grad():
      out = model(torch.from_numpy(x), torch.from_numpy(mask), True)
    arrays[f"mim_{name}_out"] = np.stack([y.numpy() for y in out])
  base = modeling.beit_base_patch16_224_8k_vocab_cls_pt(
    init_values=0.1,
    use_abs_pos_emb=False,
    use_shared_rel_pos_bias=True,
    early_layers=9,
  )
  print("pre-training, base:", sum(p.numel() for p in base.parameters()))


def teachers(clip, dino, arrays: dict, rng) -> None:
  x = rng.standard_normal((2, 3, SIZE, SIZE)).astype(np.float32)
  arrays["teacher_x"] = x.transpose(0, 2, 3, 1)
  x = torch.from_numpy(x)
  visual = nn.Module()
  visual.visual = clip.VisionTransformer(SIZE, PATCH, 128, 2, 2, TARGET)
  seeded(visual, "clip", arrays).eval()
  model = dino.VisionTransformer(
    *([SIZE], PATCH, 3, 0, WIDTH, 2, HEADS), qkv_bias=True, norm_layer=NORM
  )
  seeded(model, "dino", arrays).eval()
  with torch.no_grad():
    visual = visual.visual
    arrays["clip_patches"] = (
      visual(x, return_all_tokens=True) @ visual.proj
    ).numpy()
    arrays["clip_pooled"] = visual(x).numpy()
    arrays["dino_tokens"] = model.get_intermediate_layers(x, 1)[0].numpy()


def main(unilm: str, dino: str) -> None:
  folder = Path(unilm) / "beit2"
  stand_in("timm")
  stand_in("timm.models")
  stand_in(
    "timm.models.layers",
    trunc_normal_=nn.init.trunc_normal_,
    drop_path=lambda x, rate, train: x,
    to_2tuple=lambda x: x if isinstance(x, tuple) else (x, x),
  )
  stand_in("timm.models.registry", register_model=lambda function: function)
  stand_in("timm.data")
  stand_in(
    "timm.data.constants",
    IMAGENET_DEFAULT_MEAN=(0.485, 0.456, 0.406),
    IMAGENET_DEFAULT_STD=(0.229, 0.224, 0.225),
  )
  stand_in("utils", trunc_normal_=nn.init.trunc_normal_)
  stand_in("vqkd_teacher", clip=None, get_dino_vit_base=None)
  sys.path.insert(0, str(folder))
  import modeling_pretrain
  import modeling_vqkd
  import norm_ema_quantizer

  encoder = modeling_vqkd.get_model_default_params() | {"num_classes": 0}
  decoder = {"depth": 3, "img_size": 14, "patch_size": 1, "in_chans": 32}
  base = modeling_vqkd.VQKD(
    encoder, encoder | decoder, teacher_model_type="None"
  )
  for part in ("encoder", "decoder"):
    print(part, sum(p.numel() for p in getattr(base, part).parameters()))
  print("tokenizer:", sum(p.numel() for p in base.parameters()))
  arrays: dict = {}
  tokenizer(modeling_vqkd, arrays, np.random.default_rng(0))
  quantizer(norm_ema_quantizer, arrays, np.random.default_rng(1))
  aggregation(modeling_pretrain, arrays, np.random.default_rng(2))
  clip = from_file("clip_model", folder / "vqkd_teacher/clip/model.py")
  of_dino = from_file("dino_vit", Path(dino) / "vision_transformer.py")
  teachers(clip, of_dino, arrays, np.random.default_rng(3))
  path = Path(__file__).with_name("beit2.npz")
  np.savez_compressed(path, **arrays)
  print(path, path.stat().st_size)


if __name__ == "__main__":
  main(*sys.argv[1:])
