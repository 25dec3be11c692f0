"""Every reader, with the files it is tried on and the errors it documents."""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments import evaluate, models, results
from experiments.ddpm.config import Config
from experiments.ldm.first_stage import read_architecture
from experiments.sd1.files import read_parameters
from jaxgen import data, training
from jaxgen.convert import (
  clip,
  dalle_dvae,
  ddpm,
  first_stage_folders,
  flax_files,
  inception,
)
from jaxgen.convert.state import read_safetensors
from jaxgen.convert.torch_files import read_state, read_torch
from jaxgen.data.images import decode_image, decode_label_map
from jaxgen.data.tokenizers import (
  bert_tokenizer,
  clip_tokenizer,
  clip_tokenizer_of,
  load_tokenizer,
)
from jaxgen.metrics import features, files

from . import seeds
from .archives import mutate_pickle, mutate_zip
from .guard import MEGABYTE, Limits
from .mutate import (
  Mutation,
  Rng,
  any_bytes,
  choice,
  mutate_json,
  mutate_lines,
)
from .pictures import (
  mutate_msgpack,
  mutate_png,
  mutate_safetensors,
  mutate_segments,
)

FILE = (ValueError, FileNotFoundError)
# A decoded image of the largest size, and the copies made of it.
IMAGES = Limits(memory=320 * MEGABYTE)
# Networks are traced for the shapes of their parameters.
NETWORKS = Limits(seconds=20.0)


@dataclasses.dataclass(frozen=True)
class Target:
  """A reader and the files it is tried on.

  Attributes:
    name: of the reader.
    weight: how often it is tried, relative to the others.
    seeds: whole files by name, several sets.
    read: folder of the files -> anything.
    errors: the types it documents.
    limits: of its cost.
    arrange: breaks the folder itself, once the files are there.
  """

  name: str
  weight: float
  seeds: list[seeds.Files]
  read: Callable[[Path], Any]
  errors: tuple[type[Exception], ...] = FILE
  limits: Limits = dataclasses.field(default_factory=Limits)
  arrange: Callable[[Rng, Path], None] | None = None

  def write(self, rng: Rng, folder: Path) -> None:
    """Puts broken files into an empty folder."""
    chosen = dict(choice(rng, self.seeds))
    if self.arrange is None or rng.random() < 0.5:
      name = choice(rng, sorted(chosen))
      chosen[name] = broken(rng, name, chosen[name])
    put(folder, chosen)
    if self.arrange is not None:
      self.arrange(rng, folder)


def put(folder: Path, chosen: seeds.Files) -> None:
  for name, content in chosen.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


_MUTATIONS: dict[str, Mutation] = {
  ".safetensors": mutate_safetensors,
  ".msgpack": mutate_msgpack,
  ".json": mutate_json,
  ".png": mutate_png,
  ".jpeg": mutate_segments,
  ".txt": mutate_lines,
}


def broken(rng: Rng, name: str, content: bytes) -> bytes:
  """The bytes of a file after one or two mutations."""
  if rng.random() < 0.15:
    return any_bytes(rng, content)
  suffix = Path(name).suffix
  if suffix in (".pt", ".pth", ".pkl", ".npz"):
    mutate = mutate_zip if seeds.is_zip(content) else mutate_pickle
  else:
    mutate = _MUTATIONS.get(suffix, any_bytes)
  content = mutate(rng, content)
  return any_bytes(rng, content) if rng.random() < 0.05 else content


def only_file(folder: Path) -> Path:
  [path] = [p for p in folder.rglob("*") if p.is_file()]
  return path


# Readers of folders with a little more around them.


def _use(tokenizer: data.TextTokenizer) -> None:
  assert tokenizer(["the cat!", ""]).shape == (2, tokenizer.length)
  assert tokenizer.vocab_size >= 0


def _pixels(folder: Path) -> None:
  content = only_file(folder).read_bytes()
  image = decode_image(content, 3)
  assert image.dtype == np.uint8
  assert image.shape[2] == 3
  assert decode_label_map(content).ndim == 2


def _classes(folder: Path) -> None:
  for example in data.load(f"folder:{folder}"):
    assert example["image"].shape[2] == 3


def _labels(folder: Path) -> None:
  for example in data.load(f"ade20k:{folder}"):
    assert example["segmentation"].ndim == 2


def _described(folder: Path) -> None:
  """All layouts; what is broken is in one of them."""
  for name in ("karpathy:train", "nocaps:val", "nlvr2:dev", "vqav2:train"):
    kind, _, split = name.partition(":")
    for example in data.load(f"{kind}:{folder}", split):
      assert example["image"].shape[2] == 3


def _opened(folder: Path) -> None:
  for image in files.open_images(folder / "train/owl"):
    assert image.shape[2] == 3


def _reference(folder: Path) -> None:
  scoring = evaluate.Scoring(reference=str(folder / "x.npz"))
  found = features.Extractor("none", "", "none", 3, lambda x: x)
  evaluate.reference_statistics(scoring, found)


def _architecture(folder: Path) -> None:
  read_architecture(folder / "architecture.json")
  first_stage_folders.configured(folder / "config.json")


def _disorder(rng: Rng, folder: Path) -> None:
  """What else a folder of images may hold."""
  parents = [folder, *(p for p in folder.rglob("*") if p.is_dir())]
  for _ in range(int(rng.integers(0, 5))):
    parent = choice(rng, parents)
    names = ("x.png", "y", "\udcff.png", "é.PNG", " .png", ".png", "z.jpg")
    path = parent / choice(rng, names)
    if os.path.lexists(path):
      continue
    kind = int(rng.integers(7))
    if kind == 0:
      path.symlink_to(choice(rng, parents), target_is_directory=True)
    elif kind == 1:
      path.symlink_to(choice(rng, ("nowhere", "x.png", "../x.png")))
    elif kind == 2:
      os.mkfifo(path)
    elif kind == 3:
      path.mkdir()
    elif kind == 4:
      for name in ("a", "b", "c"):
        path = parent / f"to_{name}"
        if not os.path.lexists(path):
          path.symlink_to(folder, target_is_directory=True)
    else:
      path.write_bytes(rng.bytes(int(rng.integers(0, 99))))


def _sealed(rng: Rng, folder: Path) -> None:
  """Seals the broken files anew, as who wants to deceive does."""
  step = folder / "checkpoints/3"
  if rng.random() < 0.2 or not step.is_dir():
    return
  seal = step / "SHA256SUMS"
  lines = []
  for line in seal.read_text(errors="replace").splitlines():
    _, _, name = line.partition("  ")
    path = step / name
    if "\0" not in name and len(name) < 200 and path.is_file():
      lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n")
  if rng.random() < 0.1:
    outside = choice(rng, ("/etc/passwd", "../../../secret", "/dev/zero", "."))
    lines.append(f"{'0' * 64}  {outside}\n")
  seal.write_text("".join(lines))
  if rng.random() < 0.1:
    other = choice(rng, ("٣", "007", "4", "9" * 100, "5.damaged"))
    step.rename(step.with_name(other))


def _restored(folder: Path) -> None:
  models.restore_run(folder, Config)


def _experiment(folder: Path) -> None:
  training.restore_experiment(folder / "checkpoints")
  models.load(str(folder))


def targets() -> list[Target]:
  """All of them."""
  torch, npz = seeds.torch_files(), seeds.statistics_files()
  pictures, run = seeds.pictures(), seeds.checkpoint_folder()
  stage = seeds.first_stage_folder()
  configs = {k: v for k, v in stage.items() if k.endswith(".json")}
  only = only_file
  return [
    Target("read_torch", 20, torch, lambda f: read_torch(only(f))),
    Target("read_state", 10, torch, lambda f: read_state(only(f))),
    Target(
      "dalle_dvae.load",
      1,
      [seeds.module_file()],
      lambda f: dalle_dvae.load(only(f), seeds.ENCODER),
      limits=NETWORKS,
    ),
    Target(
      "inception.load",
      0.02,
      [seeds.inception_file()],
      lambda f: inception.load(only(f)),
      limits=NETWORKS,
    ),
    Target(
      "read_safetensors",
      10,
      [seeds.safetensors_file()],
      lambda f: read_safetensors(only(f)),
    ),
    Target(
      "read_msgpack",
      8,
      [seeds.msgpack_file()],
      lambda f: flax_files.read_msgpack(only(f)),
    ),
    Target("read_statistics", 6, npz, lambda f: files.read_statistics(only(f))),
    Target("read_images", 4, npz, lambda f: files.open_images(only(f))),
    Target("reference", 4, npz[:2], _reference),
    Target("decode_image", 20, pictures, _pixels, (ValueError,), IMAGES),
    Target(
      "read_parameters",
      2,
      pictures[:4],
      lambda f: read_parameters(only(f)),
      limits=IMAGES,
    ),
    Target(
      "class folders",
      4,
      [seeds.picture_folder()],
      _classes,
      limits=IMAGES,
      arrange=_disorder,
    ),
    Target(
      "label maps",
      2,
      [seeds.label_folder()],
      _labels,
      limits=IMAGES,
      arrange=_disorder,
    ),
    Target(
      "images with texts",
      4,
      [seeds.described_folder()],
      _described,
      limits=IMAGES,
    ),
    Target(
      "open_images",
      2,
      [seeds.picture_folder()],
      _opened,
      limits=IMAGES,
      arrange=_disorder,
    ),
    Target(
      "clip_tokenizer",
      4,
      [seeds.clip_vocabulary()],
      lambda f: _use(clip_tokenizer(f / "vocab.json", f / "merges.txt", 9)),
    ),
    Target(
      "clip_tokenizer_of",
      2,
      [seeds.tokenizer_file()],
      lambda f: _use(clip_tokenizer_of(f, 9)),
    ),
    Target(
      "bert_tokenizer",
      4,
      [seeds.bert_vocabulary()],
      lambda f: _use(bert_tokenizer(only(f), 9)),
    ),
    Target(
      "load_tokenizer",
      4,
      [seeds.tokenizer_file()],
      lambda f: _use(load_tokenizer(only(f))),
    ),
    Target(
      "results.read", 4, [seeds.result_file()], lambda f: results.read(only(f))
    ),
    Target("experiment.json", 3, [run], _experiment, arrange=_sealed),
    Target(
      "restore_run", 0.5, [run], _restored, limits=NETWORKS, arrange=_sealed
    ),
    Target("configured", 6, [configs], _architecture),
    Target(
      "first stage",
      0.3,
      [stage],
      lambda f: first_stage_folders.load(f),
      limits=NETWORKS,
    ),
    Target(
      "ldm folder",
      1,
      [seeds.ldm_folder()],
      lambda f: models.load(str(f)),
      limits=NETWORKS,
    ),
    Target(
      "clip.load",
      0.6,
      [seeds.clip_folder()],
      lambda f: clip.load(f),
      limits=NETWORKS,
    ),
    Target(
      "ddpm.load",
      0.3,
      [seeds.ddpm_folder()],
      lambda f: ddpm.load(f),
      limits=NETWORKS,
    ),
  ]
