"""Writes beit3.npz: BEiT-3's networks, losses and decoding, run as released.

  PYTHONPATH=tests python tests/data/make_beit3.py UNILM_CHECKOUT

with the PyPI packages torchscale 0.2.0 and timm 1.0.31: PROVENANCE.md.
"""

import importlib.abc
import importlib.machinery
import sys
import types
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from seeded_weights import seeded_state

SIZES = {
  "img_size": 32,
  "patch_size": 8,
  "vocab_size": 40,
  "encoder_embed_dim": 32,
  "encoder_attention_heads": 4,
  "encoder_ffn_embed_dim": 64,
  "encoder_layers": 2,
  "max_source_positions": 20,
}
START, PAD, END, MASK = 0, 1, 2, 39
LENGTH = 8
NOT_NEEDED = ("torchvision", "torchmetrics", "tensorboardX", "cv2")


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Packages that the code imports and these calls do not use."""

  def find_spec(self, name, path, target=None):
    if name.split(".")[0] in NOT_NEEDED:
      return importlib.machinery.ModuleSpec(name, self, is_package=True)
    return None

  def create_module(self, spec):
    module = mock.MagicMock(name=spec.name)
    module.__path__, module.__spec__ = [], spec
    module.__name__ = spec.name
    return module

  def exec_module(self, module):
    pass


def config(**changes):
  from torchscale.architecture.config import EncoderConfig

  fixed = {"multiway": True, "no_output_layer": True}
  return EncoderConfig(**SIZES, **fixed, **changes)


def seeded(model, prefix=""):
  shapes = {k: tuple(v.shape) for k, v in model.state_dict().items()}
  state = seeded_state({prefix + k: v for k, v in shapes.items()}, 0)
  tensors = {k.removeprefix(prefix): torch.tensor(v) for k, v in state.items()}
  model.load_state_dict(tensors)
  return model.eval()


def names_of(model, name, stored, prefix=""):
  shapes = {prefix + k: tuple(v.shape) for k, v in model.state_dict().items()}
  stored[f"{name}_names"] = np.array(list(shapes))
  padded = [(*s, 0, 0, 0, 0)[:4] for s in shapes.values()]
  stored[f"{name}_shapes"] = np.array(padded)


def inputs():
  rng = np.random.default_rng(0)
  images = rng.standard_normal((4, 32, 32, 3), np.float32)
  tokens = rng.integers(3, 39, (2, 6))
  padding = np.arange(6) >= np.array([[4], [6]])
  patches = rng.random((2, 16)) < 0.4
  return images, tokens, padding, patches


def trunks(stored, images, tokens, padding, patches):
  from torchscale.model.BEiT3 import BEiT3

  model = seeded(BEiT3(config()), "beit3.")
  names_of(model, "trunk", stored, "beit3.")
  n = 17 + 6
  allowed = np.tri(n, dtype=bool)
  allowed[:17, :17] = True
  image, text = {"visual_tokens": images}, {"textual_tokens": tokens}
  padded = {"text_padding_position": padding}
  blocked = torch.from_numpy(~allowed).float()
  for name, arguments in {
    "vision": {**image, "vision_masked_position": patches},
    "text": {**text, **padded},
    "pair": {**image, **text, **padded, "vision_masked_position": patches},
    "caption": {**image, **text, **padded, "attn_mask": blocked},
  }.items():
    stored[f"trunk_{name}"] = model(**arguments)["encoder_out"].numpy()


def networks(tasks, stored, images, others, tokens, padding):
  bare = config(normalize_output=False)
  models = {
    "classifier": tasks.BEiT3ForImageClassification(bare, num_classes=5),
    "retrieval": tasks.BEiT3ForRetrieval(config()),
    "answers": tasks.BEiT3ForVisualQuestionAnswering(bare, num_classes=7),
    "reasoning": tasks.BEiT3ForVisualReasoning(config(), num_classes=2),
    "captioner": tasks.BEiT3ForCaptioning(config()),
  }
  for name, model in models.items():
    names_of(seeded(model), name, stored)
  text = {"padding_mask": padding}
  stored["classifier"] = models["classifier"](images).numpy()
  loss, image, words = models["retrieval"](images, tokens, padding)
  stored["retrieval"] = torch.stack([image, words]).numpy()
  stored["retrieval_loss"] = loss.numpy()
  stored["answers"] = models["answers"](images, tokens, **text).numpy()
  logits = models["reasoning"](images, others, tokens, **text)
  stored["reasoning"] = logits.numpy()
  logits, _ = models["captioner"](images, tokens, padding, None)
  stored["captioner"] = logits.numpy()
  return models


def vision_branch(model, stored, images):
  """timm's vision transformer with the classifier's weights."""
  from timm.layers import LayerNorm
  from timm.models.vision_transformer import VisionTransformer, _convert_beit3

  vit = VisionTransformer(
    img_size=32,
    patch_size=8,
    embed_dim=32,
    depth=2,
    num_heads=4,
    mlp_ratio=2,
    num_classes=5,
    scale_attn_norm=True,
    scale_mlp_norm=True,
    class_token=True,
    global_pool="avg",
    norm_layer=partial(LayerNorm, eps=1e-5),
  ).eval()
  vit.load_state_dict(_convert_beit3(dict(model.state_dict()), vit))
  stored["timm_classifier"] = vit(images).numpy()


def decoded(engine, model, images):
  """Tokens of the released beam search."""
  handler = engine.CaptioningHandler.__new__(engine.CaptioningHandler)
  handler.predictions = []
  marks = {"mask": MASK, "cls": START, "pad": PAD, "sep": END}
  handler.tokenizer = SimpleNamespace(
    **{f"{name}_token_id": token for name, token in marks.items()},
    batch_decode=lambda tokens, **_: tokens.tolist(),
  )
  handler.num_beams, handler.max_len = 3, LENGTH
  handler.length_penalty = 0.6
  handler.vocab_size = SIZES["vocab_size"]
  handler.eval_batch(model, images, torch.arange(len(images)))
  return np.array([p["caption"] for p in handler.predictions])


def decoding(engine, models, stored, images):
  stored["decoded"] = decoded(engine, models["captioner"], images)
  rng = np.random.default_rng(1)
  table = rng.standard_normal((24, 40, 40)).astype(np.float32)
  table[:, :, END] += rng.uniform(-2, 3, (24, 1)).astype(np.float32)
  stored["bigrams"] = table.astype(np.float16)
  table = torch.from_numpy(stored["bigrams"].astype(np.float32))
  rows = table.repeat_interleave(3, 0)

  def model(image, text_ids, **_):
    logits = rows[torch.arange(len(rows)), text_ids[:, 0]]
    return torch.stack([logits, logits], 1), {}

  stored["bigrams_decoded"] = decoded(engine, model, torch.zeros(24, 3, 1, 1))


def losses(utils, stored):
  rng = np.random.default_rng(2)
  logits = 2 * rng.standard_normal((17, 11)).astype(np.float32)
  target = rng.integers(0, 11, 17)
  loss = utils.BertCaptioningLoss(0.1, 0.2, 12000)
  values = [
    loss(torch.from_numpy(logits), torch.from_numpy(target), step).item()
    for step in (0, 20000)
  ]
  stored.update(
    caption_logits=logits, caption_target=target, caption_loss=values
  )


def interpolation(tasks, utils, model, stored):
  """The positions of 32-pixel images for 48 pixels."""
  path = Path("/tmp/beit3_positions.pth")
  torch.save({"model": model.state_dict()}, path)
  bare = config(normalize_output=False)
  bare.img_size = 48
  larger = tasks.BEiT3ForImageClassification(bare, num_classes=5)
  utils.load_model_and_may_interpolate(str(path), larger, "model", "")
  path.unlink()
  table = larger.state_dict()["beit3.encoder.embed_positions.A.weight"]
  stored["positions_48"] = table.numpy()


def rates(factory, model, stored):
  """Which layer a parameter is of, and whether it is decayed."""
  skipped = model.no_weight_decay()
  groups = factory.get_parameter_groups(model, 0.05, skipped)
  decays = {id(p): g["weight_decay"] > 0 for g in groups for p in g["params"]}
  named = dict(model.named_parameters())
  assert list(named) == stored["retrieval_names"].tolist()
  stored["retrieval_decayed"] = [decays[id(p)] for p in named.values()]
  layers = [factory.get_num_layer_for_vit(name, 4) for name in named]
  stored["retrieval_layers"] = layers


@torch.no_grad()
def main() -> None:
  sys.meta_path.insert(0, Absent())
  sys.modules["torch._six"] = types.ModuleType("torch._six")
  sys.modules["torch._six"].inf = float("inf")
  sys.path.insert(0, str(Path(sys.argv[1]) / "beit3"))
  import engine_for_finetuning as engine
  import modeling_finetune as tasks
  import optim_factory
  import utils

  images, tokens, padding, patches = inputs()
  stored = {
    "images": images,
    "tokens": tokens,
    "padding": padding,
    "patches": patches,
  }
  pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
  rest = [torch.from_numpy(x) for x in (tokens, padding, patches)]
  trunks(stored, pixels[:2], *rest)
  models = networks(tasks, stored, pixels[:2], pixels[2:], *rest[:2])
  vision_branch(models["classifier"], stored, pixels[:2])
  decoding(engine, models, stored, pixels)
  losses(utils, stored)
  rates(optim_factory, models["retrieval"], stored)
  interpolation(tasks, utils, models["classifier"], stored)
  np.savez_compressed(Path(__file__).with_name("beit3.npz"), **stored)


if __name__ == "__main__":
  main()
