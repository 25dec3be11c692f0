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
from experiments.fitting import fit
from jaxgen import data, training
from jaxgen.data import transforms
from jaxgen.nn.quantizers import codebook_usage


def train(config: Config) -> Path:
  """Trains to `config.steps` from the newest checkpoint in the workdir.

  Returns:
    The workdir, with checkpoints/, metrics.jsonl, loss.png, and, of the test
    split, evaluation.json.
  """
  training.initialize_distributed()
  config = configs.smoke(config) if config.smoke else config
  workdir = Path(config.workdir or f"runs/vqkd-{config.name}")
  teacher = load_teacher(config)
  fit(
    config,
    "beit2_vqkd",
    workdir,
    partial(vqkd_model.init_state, config),
    partial(make_step, config, teacher),
    batches=batches,
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


def show(workdir: Path, teacher: Teacher) -> dict[str, float]:
  """Evaluates a training on its test split; says if the codes collapsed.

  Returns:
    `rec`, the mean of 1 - cos; `used` and `perplexity` of the codes; `unused`,
    how many never occur; and how many `tokens` there were.
  """
  config, params, codebook = vqkd_model.restore(workdir)
  source = data.load(config.dataset, config.test_split, config.data_dir or None)
  evaluate = vqkd_model.make_evaluate(config, teacher)
  crop = lambda example: {
    "image": transforms.eval_crop(
      example["image"], config.image_size, config.crop_pct
    )
  }
  found: list[tuple[np.ndarray, np.ndarray]] = []
  for batch in data.eval_batches(
    source, config.batch_size, config.image_size, transform=crop
  ):
    rec, tokens = evaluate(params, teacher.params, codebook, batch["image"])
    mask = batch["mask"]
    found.append((np.asarray(rec)[mask], np.asarray(tokens)[mask]))
  rec, tokens = (np.concatenate(x) for x in zip(*found, strict=True))
  usage = codebook_usage(jnp.asarray(tokens), config.num_codes)
  used, perplexity = map(float, usage)
  values = {
    "rec": float(rec.mean()),
    "used": used,
    "perplexity": perplexity,
    "unused": config.num_codes - len(np.unique(tokens)),
    "tokens": tokens.size,
  }
  text = json.dumps(values, indent=2) + "\n"
  (workdir / "evaluation.json").write_text(text)
  print(
    f"{config.test_split}: 1 - cos {values['rec']:.4f}, {used:.0%} of "
    f"{config.num_codes} codes used, perplexity {perplexity:.4g}"
  )
  if said := collapse(config.num_codes, perplexity, tokens.size):
    print(said)
  print(f"saved: {workdir / 'evaluation.json'}")
  return values


if __name__ == "__main__":
  named = {name: (name, config) for name, config in configs.CONFIGS.items()}
  command_line(lambda: train(tyro.extras.overridable_config_cli(named)))
