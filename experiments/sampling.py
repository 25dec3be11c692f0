"""Images from a model: ways to sample, per-image keys, batches over devices."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from rich.progress import track

import jaxgen.diffusion as jd
from experiments.models import Model
from jaxgen import data, training
from jaxgen.metrics.files import read_images, write_images
from jaxgen.types import Array, Key, PyTree

# (params, keys [B][, given]) -> x [B, H, W, C] in [-1, 1], jitted. `given` may
# hold what each image depends on, `label` [B] and `low_res` [B, h, w, C].
Draw = Callable[..., Array]
Given = Mapping[str, np.ndarray]
GRIDS = {
  "even": jd.descending_times,
  "uniform": jd.uniform_times,
  "quadratic": jd.quadratic_times,
  "respaced": lambda T, n: jd.respaced_times(T, str(n)),
  "ldm": lambda T, n: jd.sd1_times(n),
}
STEPPERS = {
  "dpm_solver_pp_2m": jd.dpm_solver_pp_2m,
  "plms": jd.plms,
  "edm_heun": jd.edm_heun,
}
FIXED = {"small": jd.FIXED_SMALL, "large": jd.FIXED_LARGE}


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How to sample.

  Attributes:
    sampler: "ddpm" is ancestral sampling, "ddim" takes eta; the others are
      deterministic methods of second and higher order.
    steps: of the sampler; for "ddpm" all T as a rule.
    grid: "even" spreads the steps from T to 0, "uniform" and "quadratic" are
      DDIM's (App. D.2), "respaced" is improved DDPM's (section 4), "karras"
      EDM's noise levels, for its models, "ldm" latent diffusion's. Or improved
      DDPM's own words, which count the steps themselves: "250", "10,10,20",
      "ddim50".
    eta: DDIM's.
    variance: of the ancestral step, where none is learned; the model's own by
      default.
    clip: clip the estimate of x_0 to [-1, 1] at every step, unless it is a
      latent.
    label: the class of all images; by default each has a random one.
    guidance: scale of classifier-free guidance, 1 for none; for models that
      were trained with hidden labels.
    classifier_scale: of the gradient, where there is a classifier.
  """

  sampler: Literal["ddpm", "ddim", "dpm_solver_pp_2m", "plms", "edm_heun"] = (
    "ddpm"
  )
  steps: int = 1000
  grid: str = "even"
  eta: float = 0.0
  variance: Literal["small", "large"] | None = None
  clip: bool = True
  label: int | None = None
  guidance: float = 1.0
  classifier_scale: float = 1.0


def make_times(model: Model, how: Sampling) -> np.ndarray:
  """The grid of times of a way to sample.

  Raises:
    ValueError: the grid has no such name, or does not fit T.
  """
  T = model.process.T
  if how.grid == "karras":
    return jd.karras_times(how.steps, model.sigma_min, T)
  if how.grid in GRIDS:
    return GRIDS[how.grid](T, how.steps)
  if how.grid.removeprefix("ddim")[:1].isdigit():
    return jd.respaced_times(T, how.grid)
  raise ValueError(
    f"a grid is one of {', '.join(GRIDS)}, karras, or a respacing such as 250, "
    f"10,10,20 or ddim50; got {how.grid!r}"
  )


def make_draw(model: Model, how: Sampling) -> Draw:
  """The jitted (params, keys[, given]) -> images of a way to sample.

  A class-conditional model is told the label of `given`, or that of `how`, or
  one drawn from each image's key. Others that know what it is to be told
  nothing are told that, where `given` has no label.
  """
  config, process = model.config, model.process
  if how.guidance != 1 and model.no_label is None:
    raise ValueError(
      "guidance needs a model trained with hidden labels (--label-dropout), "
      f"got guidance {how.guidance} for {config.name}"
    )
  if how.label is not None and not 0 <= how.label < model.num_classes:
    raise ValueError(
      f"label must lie in [0, {model.num_classes}), the model's classes, got "
      f"{how.label}"
    )
  times = make_times(model, how)
  size = config.image_size

  @jax.jit
  def draw(params, keys, given=None):
    given = dict(given or {})
    if model.num_classes and "label" not in given:
      given["label"] = _labels(keys, model.num_classes, how.label)
    if model.no_label is not None and "label" not in given:
      shape = keys.shape + np.shape(model.no_label)
      given["label"] = jnp.broadcast_to(model.no_label, shape)
    denoiser, gradient = _denoiser(model, how, params, given)
    if how.clip and model.decode is None:
      denoiser = jd.clip_x_0(process, denoiser)
    sampler = make_sampler(model, how, denoiser, gradient)
    shape = model.latent_shape or (size, size, config.image_channels)
    x_T = jd.prior(process, keys, (keys.shape[0], *shape))
    x = jd.sample(keys, x_T, times, sampler)
    return x if model.decode is None else model.decode(params, x)

  return draw


def make_sampler(
  model: Model,
  how: Sampling,
  denoiser: jd.Denoiser,
  gradient: Callable[[Array, Array], Array] | None = None,
) -> jd.Sampler:
  """The sampler; a classifier's gradient is for "ddpm" alone."""
  process = model.process
  if how.sampler == "ddpm":
    variance = FIXED[how.variance] if how.variance else model.variance
    return jd.ancestral(process, denoiser, variance, gradient)
  if how.sampler == "ddim":
    return jd.ddim(process, denoiser, how.eta)
  return STEPPERS[how.sampler](process, denoiser)


def _denoiser(
  model: Model, how: Sampling, params: PyTree, given: Mapping[str, Array]
) -> tuple[jd.Denoiser, Any]:
  """The denoiser with its guidance, and the gradient that "ddpm" is left."""
  labels = given.get("label")
  rest = [given["low_res"]] if model.low_res_size else []
  denoiser = model.denoiser(params, labels, *rest)
  if how.guidance != 1 and model.no_label is not None and labels is not None:
    none = jnp.full_like(labels, model.no_label)
    unconditional = model.denoiser(params, none, *rest)
    denoiser = jd.classifier_free(
      model.process, denoiser, unconditional, how.guidance
    )
  if model.log_prob is None or labels is None:
    return denoiser, None
  log_prob, scale = model.log_prob(params, labels), how.classifier_scale
  # ADM's Algorithm 1 for ancestral steps, its Algorithm 2 for all others.
  if how.sampler == "ddpm":
    return denoiser, jd.log_prob_gradient(log_prob, scale)
  guided = jd.classifier_guided(model.process, denoiser, log_prob, scale)
  return guided, None


def _labels(keys: Key, num_classes: int, label: int | None) -> Array:
  """The label, or a uniform one of each key's stream that no sampler uses."""
  if label is not None:
    return jnp.full(keys.shape, label, jnp.int32)
  draw = lambda key: jax.random.randint(
    jax.random.fold_in(key, 2**31 - 1), (), 0, num_classes
  )
  return jax.vmap(draw)(keys)


def generate(
  draw: Draw,
  params: PyTree,
  n: int,
  seed: int = 0,
  batch_size: int = 64,
  label: str = "sampling",
  given: Given | None = None,
) -> np.ndarray:
  """n images, each from its own key: image i is the same for every batch size.

  Args:
    draw: samples a batch from one key per image.
    params: the network's parameters.
    n: how many.
    seed: image i's key is fold_in(key(seed), i).
    batch_size: images per call, over all devices.
    label: shown by the progress bar.
    given: what image i is conditional on: row i of each array.

  Returns:
    uint8 `[n, H, W, C]`.
  """
  size = min(batch_size, n)
  starts = range(0, n, size)
  batches = _batches(draw, params, starts, size, seed, label, given)
  return np.concatenate([data.to_uint8(x) for _, x in batches])[:n]


def generate_shards(
  draw: Draw,
  params: PyTree,
  n: int,
  directory: str | Path,
  identity: Mapping[str, object],
  seed: int = 0,
  batch_size: int = 64,
  truncate: bool = False,
  given: Given | None = None,
) -> list[np.ndarray]:
  """The images of `generate`, kept batch by batch in a directory.

  Called again, it draws only the batches that are not there: after it was
  stopped, or for a larger n. Of several processes, the first writes.

  Args:
    draw: samples a batch from one key per image.
    params: the network's parameters.
    n: how many images.
    directory: of the batches, as ADM's .npz, and of run.json; on a file system
      that all processes share.
    identity: what else the images depend on, for run.json.
    seed: as in `generate`.
    batch_size: images per call and file.
    truncate: the rounding rule, as in `jaxgen.data.to_uint8`.
    given: as in `generate`; `identity` should name it.

  Returns:
    n uint8 images `[H, W, C]`.

  Raises:
    ValueError: the directory holds images of another run.
    OSError: it cannot be written.
  """
  directory = Path(directory)
  identity = {
    **identity,
    "seed": seed,
    "batch_size": batch_size,
    "truncate": truncate,
  }
  _check_identity(directory / "run.json", identity)
  paths = {
    start: directory / f"images-{start:06d}.npz"
    for start in range(0, n, batch_size)
  }
  missing = [start for start, path in paths.items() if not path.exists()]
  if len(missing) < len(paths):
    print(f"{directory} already has {len(paths) - len(missing)} batches")
  for start, x in _batches(
    draw, params, missing, batch_size, seed, "sampling", given
  ):
    if jax.process_index() == 0:
      write_images(paths[start], data.to_uint8(x, truncate))
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f"images in {directory}")
  return [image for path in paths.values() for image in read_images(path)][:n]


def _batches(
  draw: Draw,
  params: PyTree,
  starts: Sequence[int],
  size: int,
  seed: int,
  label: str,
  given: Given | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
  """(start, images start, ..., start + size - 1) of each start."""
  mesh = training.make_mesh()
  full = -(-size // mesh.size) * mesh.size
  params = training.shard_state(mesh, params)
  fold_in = jax.vmap(jax.random.fold_in, (None, 0))
  for start in track(starts, label, transient=True):
    indices = jnp.arange(start, start + full)
    keys = fold_in(jax.random.key(seed), indices)
    keys = training.split_batch(mesh, keys)
    rows = []  # past the end, the last row is repeated
    if given:
      take = lambda a, i=indices: np.take(a, i, 0, mode="clip")
      rows = [{k: take(a) for k, a in given.items()}]
      rows = training.split_batch(mesh, rows)
    yield start, training.gather(draw(params, keys, *rows))[:size]


def _check_identity(path: Path, identity: Mapping[str, object]) -> None:
  wanted = json.loads(json.dumps(identity))
  if path.exists():
    found = json.loads(path.read_text())
    differing = [
      f"{name} ({found.get(name)!r}, now {value!r})"
      for name, value in wanted.items()
      if found.get(name) != value
    ]
    if differing:
      raise ValueError(
        f"{path.parent} holds images of another run, which differs in "
        f"{', '.join(differing)}: choose another directory"
      )
    return
  temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text(json.dumps(wanted, indent=2) + "\n")
    os.replace(temporary, path)
  except OSError as error:
    raise OSError(f"cannot write {path}: {error}") from error
