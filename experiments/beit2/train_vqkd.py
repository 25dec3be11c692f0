"""Trains BEiT v2's tokenizer: vector-quantised knowledge distillation.

  python -m experiments.beit2.train_vqkd base_3_clip --dtype bfloat16 \\
    --teacher clip:ViT-B-16.pt --workdir runs/vqkd
  python -m experiments.beit2.train_vqkd openmoji64 --dtype bfloat16  # one GPU
  python -m experiments.beit2.train_vqkd mnist5k  # one CPU core, 3 minutes

The same command continues a run that was stopped or killed. The release trained
on 8 V100 for 100 epochs of ImageNet-1k; of its 8192 codes 97% are in use
(base_3_clip), 100% (base_1_clip, base_1_dino). Not run here.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.beit2 import config as configs
from experiments.beit2 import teachers, vqkd_model
from experiments.beit2.config import Tokenizer as Config
from experiments.beit2.teachers import Teacher
from experiments.cli import command_line
from experiments.dvae.model import collapse
from experiments.fitting import fit, image_examples
from jaxgen import data, training
from jaxgen.data import transforms
from jaxgen.nn.norm_ema import Codebook
from jaxgen.nn.quantizers import usage_of
from jaxgen.types import PyTree


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl, loss.png, and, of the test
    split, evaluations.jsonl during the training and evaluation.json of its end.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/vqkd-{config.name}")
  teacher = load_teacher(config)
  mesh = training.make_mesh(fsdp=config.fsdp)
  evaluate = make_evaluate(config, teacher, mesh)

  def judge(state: training.TrainState) -> dict[str, float]:
    values = evaluate(state.params, state.memory)
    if said := collapsed(config, values):
      print(f"step {int(state.step)}: {said}", flush=True)
    return values

  fit(
    config,
    "beit2_vqkd",
    workdir,
    partial(vqkd_model.init_state, config),
    partial(make_step, config, teacher),
    batches=batches,
    examples=image_examples,
    evaluate=judge,
  )
  if jax.process_count() == 1:
    show(workdir, teacher)
  return workdir


def load_teacher(config: Config) -> Teacher:
  """The teacher, which has to fit the tokenizer.

  Raises:
    ValueError: it does not.
  """
  teacher = teachers.load(config.teacher, config.image_size)
  shape = (1, *[config.image_size] * 2, config.image_channels)
  x = jax.ShapeDtypeStruct(shape, jnp.float32)
  teachers.check(teacher, x, config.grid**2, config.teacher_dim)
  return teacher


def make_step(
  config: Config, teacher: Teacher, mesh: Mesh
) -> training.TrainStep:
  """The jitted step `(state, batch) -> (state, metrics)`.

  The teacher's parameters are arguments of it, and no constants.
  """
  # No average: decay 0 leaves the parameters themselves.
  step = training.make_train_step(
    vqkd_model.make_loss(config, teacher),
    vqkd_model.make_optimizer(config),
    training.constant_ema(0.0),
    mesh,
  )
  everywhere = NamedSharding(mesh, PartitionSpec())
  frozen = {"teacher": jax.device_put(teacher.params, everywhere)}
  return lambda state, batch: step(state, batch | frozen)


def batches(config: Config) -> Any:
  """The stream of random crops that a configuration names."""
  view = partial(
    random_view,
    size=config.image_size,
    area=config.crop_area,
    flip=config.flip,
  )
  return data.train_batches(
    data.load(config.dataset, config.split, config.data_dir or None),
    config.batch_size,
    config.image_size,
    config.seed,
    transform=view,
    num_workers=config.num_workers,
  )


def random_view(
  example: dict[str, Any],
  rng: np.random.Generator,
  size: int,
  area: float,
  flip: bool,
) -> dict[str, np.ndarray]:
  """A random crop of an image, mirrored or not; no colours are changed."""
  image = example["image"]
  height, width = image.shape[:2]
  box = transforms.random_box(rng, height, width, (area, 1.0))
  image = transforms.render(image, box, size)
  return {"image": transforms.random_flip(rng, image, 0.5 if flip else 0.0)}


def make_evaluate(
  config: Config, teacher: Teacher, mesh: Mesh
) -> Callable[[PyTree, Codebook], dict[str, float]]:
  """(parameters, codebook) -> what they do on the test split.

  Evaluates over all devices, and leaves the codebook as it is.

  Args:
    config: of the training.
    teacher: its teacher.
    mesh: where parameters and codebook live.

  Returns:
    `rec`, the mean of 1 - cos; `used` and `perplexity` of the codes; `unused`,
    how many never occur; and how many `tokens` there were.
  """
  count = vqkd_model.make_count(config, teacher)
  crop = partial(_central, size=config.image_size, crop_pct=config.crop_pct)
  frozen = training.shard_state(mesh, teacher.params)

  source = data.load(config.dataset, config.test_split, config.data_dir or None)

  def evaluate(params: PyTree, codebook: Codebook) -> dict[str, float]:
    rec, counts = 0.0, np.zeros(config.num_codes)
    for batch in data.eval_batches(
      source, config.batch_size, config.image_size, transform=crop
    ):
      placed = training.shard_batch(mesh, batch)
      sums = count(params, frozen, codebook, placed)
      rec, counts = rec + float(sums[0]), counts + np.asarray(sums[1])
    used, perplexity = map(float, usage_of(jnp.asarray(counts)))
    return {
      "rec": rec / counts.sum(),
      "used": used,
      "perplexity": perplexity,
      "unused": int((counts == 0).sum()),
      "tokens": int(counts.sum()),
    }

  return evaluate


def _central(
  example: dict[str, Any], size: int, crop_pct: float
) -> dict[str, np.ndarray]:
  return {"image": transforms.eval_crop(example["image"], size, crop_pct)}


def collapsed(config: Config, values: Mapping[str, float]) -> str:
  """One sentence if most codes are not used, or nearly only one; else ""."""
  n, tokens = config.num_codes, int(values["tokens"])
  if n - values["unused"] < min(n, tokens) / 2:
    return (
      f"the codebook has collapsed: {values['unused']:.0f} of its {n} codes do "
      f"not occur in {config.test_split}"
    )
  return collapse(n, values["perplexity"], tokens)


def show(workdir: Path, teacher: Teacher) -> dict[str, float]:
  """Evaluates a training on its test split; says if the codes collapsed.

  Returns:
    See `make_evaluate`.
  """
  config, params, codebook = vqkd_model.restore(workdir)
  mesh = training.make_mesh(fsdp=config.fsdp)
  placed = training.shard_state(mesh, (params, codebook))
  values = make_evaluate(config, teacher, mesh)(*placed)
  text = json.dumps(values, indent=2) + "\n"
  (workdir / "evaluation.json").write_text(text)
  print(
    f"{config.test_split}: 1 - cos {values['rec']:.4f}, {values['used']:.0%} "
    f"of {config.num_codes} codes used, perplexity {values['perplexity']:.4g}"
  )
  if said := collapsed(config, values):
    print(said)
  print(f"saved: {workdir / 'evaluation.json'}")
  return values


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
