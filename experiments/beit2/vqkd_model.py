"""From a configuration to the tokenizer, its loss and its use."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from experiments.beit2.config import Tokenizer as Config
from experiments.beit2.teachers import Teacher
from experiments.dvae.model import collapse_below
from experiments.models import restore_run
from experiments.tokenizers import Tokenizer
from jaxgen import training
from jaxgen.convert import vqkd as published
from jaxgen.masked import vq_kd_loss
from jaxgen.nn import norm_ema
from jaxgen.nn.norm_ema import Codebook
from jaxgen.nn.quantizers import usage_of
from jaxgen.nn.vqkd import VQKD, PatchFeatures, plain_vit
from jaxgen.training.layer_decay import layer_decay_adamw, warmed_up_cosine
from jaxgen.types import Array, Key, PyTree


def make_network(config: Config) -> VQKD:
  """The encoder, quantizer and decoder."""
  c = config
  run: dict[str, Any] = {"dtype": jnp.dtype(c.dtype), "remat": c.remat}
  sizes = c.num_heads, c.mlp_width
  encoder = plain_vit(c.width, c.num_layers, *sizes, c.patch_size)
  decoder = plain_vit(c.width, c.decoder_layers, *sizes, 1)
  return VQKD(
    PatchFeatures(encoder.clone(**run), c.code_dim),
    PatchFeatures(decoder.clone(**run), c.teacher_dim),
    c.decay,
    c.restart,
  )


def make_optimizer(config: Config) -> optax.GradientTransformation:
  """AdamW, one rate for all layers."""
  rate = warmed_up_cosine(
    config.lr, config.min_lr, config.warmup, config.decay_steps
  )
  return layer_decay_adamw(
    rate,
    config.num_layers,
    weight_decay=config.weight_decay,
    b2=config.b2,
    clip_norm=config.clip_norm,
  )


def init_state(config: Config, key: Key, run_key: Key) -> training.TrainState:
  """The state before the first step; its memory is the codebook."""
  keys = jax.random.split(key)
  sizes = config.num_codes, config.code_dim
  codebook = (
    norm_ema.waiting_codebook(*sizes)
    if config.kmeans
    else norm_ema.random_codebook(keys[1], *sizes)
  )
  x = jnp.zeros((1, *[config.image_size] * 2, config.image_channels))
  init = jax.jit(make_network(config).init)
  params = init(keys[0], x, codebook)["params"]
  return training.init_state(params, make_optimizer(config), run_key, codebook)


def make_loss(config: Config, teacher: Teacher) -> training.LossFn:
  """The loss of a batch with `image` and the `teacher`'s parameters.

  Returns:
    (params, key, batch, codebook) -> (loss, metrics, codebook): the loss's
    parts `rec` and `quant`; of the latest 1 / (1 - decay) batches, about, the
    share of codes `used` and their `perplexity`; and `collapsed`.
  """
  network = make_network(config)
  seen = config.batch_size * config.grid**2 / (1 - config.decay)
  least = collapse_below(config.num_codes, int(seen))

  def loss_fn(params: PyTree, key: Key, batch: Any, codebook: Codebook):
    x = batch["image"]
    target = teacher.features(batch["teacher"], x)
    out: Any = network.apply({"params": params}, x, codebook, True, key)
    loss, metrics = vq_kd_loss(out.features, target, out.quantized.loss)
    used, perplexity = recent_usage(out.codebook, config.decay)
    collapsed = (perplexity < least).astype(jnp.float32)
    metrics |= {"used": used, "perplexity": perplexity, "collapsed": collapsed}
    return loss, metrics, out.codebook

  return loss_fn


def recent_usage(codebook: Codebook, decay: float) -> tuple[Array, Array]:
  """(share of codes in use, perplexity), by the moving average, both `[]`.

  A code is in use if its average is at least what one choice, 1 / (1 - decay)
  batches ago, has left of itself.
  """
  least = (1 - decay) * decay ** (1 / (1 - decay))
  used = (codebook.usage >= least).mean(dtype=jnp.float32)
  return used, usage_of(codebook.usage)[1]


def make_count(config: Config, teacher: Teacher) -> Any:
  """(params, the teacher's, codebook, batch) -> sums over the batch, jitted.

  A batch has `image` and `mask`, and may be split over devices. The sums, which
  all devices get: 1 - cos of all patches `[]`, and how often each code occurs
  `[num_codes]`. The codebook stays as it is.
  """
  network = make_network(config)

  @jax.jit
  def count(params: PyTree, frozen: PyTree, codebook: Codebook, batch: Any):
    x = batch["image"]
    target = teacher.features(frozen, x)
    out: Any = network.apply({"params": params}, x, codebook)
    cosine = (norm_ema.unit(out.features) * norm_ema.unit(target)).sum(-1)
    real = batch["mask"].astype(jnp.float32)[:, None]
    tokens = out.quantized.indices.reshape(len(x), -1)
    weight = jnp.broadcast_to(real, tokens.shape).ravel()
    counts = jnp.bincount(tokens.ravel(), weight, length=config.num_codes)
    return ((1 - cosine) * real).sum(), counts

  return count


def restore(workdir: Path) -> tuple[Config, PyTree, Codebook]:
  """Configuration, parameters and codebook of a training."""
  config, params = restore_run(workdir, Config)
  memory = training.restore_params(workdir / "checkpoints", "memory")
  return config, params, Codebook(**memory)


def load_tokenizer(path: Path) -> Tokenizer:
  """See `experiments.tokenizers.load`; images have the size of training."""
  if (path / "checkpoints").is_dir():
    config, params, codebook = restore(path)
    network, channels = make_network(config), config.image_channels
  else:
    network, params, codebook = published.load(path)
    kernel = params["encoder"]["backbone"]["patch_embed"]["kernel"]
    channels = kernel.shape[2]

  def encode(frozen: PyTree, images: Array) -> Array:
    found: Any = network.apply(
      {"params": frozen["params"]},
      images,
      frozen["codebook"],
      method="tokens",
    )
    return found.astype(jnp.int32)

  # The decoder is of no use any more.
  encoder = {"encoder": params["encoder"]}
  return Tokenizer(
    {"params": encoder, "codebook": codebook},
    encode,
    None,
    len(codebook.usage),
    network.encoder.backbone.patch_size,
    channels,
  )
