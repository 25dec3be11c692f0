"""Whole small files of every kind that is read."""

import dataclasses
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.serialization import msgpack_serialize
from PIL import Image
from small_vocabularies import write_bert_file, write_clip_files
from torch_pickles import (
  Code,
  body,
  called,
  encode,
  named,
  tensor,
  write_legacy,
  write_zip,
)

from experiments.ddpm.config import CONFIGS
from experiments.ldm import files as ldm_files
from experiments.ldm.config import smoke
from experiments.ldm.configs import CONFIGS as LDMS
from experiments.ldm.first_stage import write_architecture
from experiments.ldm.model import init_all, make_networks
from experiments.results import Result, save
from jaxgen.convert import clip, dalle_dvae, ddpm, first_stage_folders
from jaxgen.convert.state import write_safetensors
from jaxgen.data.tokenizers import train_word_tokenizer
from jaxgen.metrics.files import write_images, write_statistics
from jaxgen.metrics.inception_score import ClassSums
from jaxgen.metrics.moments import Gaussian
from jaxgen.metrics.statistics import Statistics
from jaxgen.nn.autoencoder import AutoencoderKL
from jaxgen.nn.clip_text import ClipText
from jaxgen.nn.ddpm_unet import UNet
from jaxgen.nn.dvae import Encoder
from jaxgen.training import Checkpoints, TrainState

Files = dict[str, bytes]
ENCODER = Encoder(channels=4, num_blocks=1, num_tokens=8)
CLIP = ClipText(
  vocab_size=20,
  width=8,
  num_layers=1,
  num_heads=2,
  mlp_width=16,
  max_length=5,
  end_token=19,
)
FIRST_STAGE = AutoencoderKL(
  4, (1,), (), resolution=8, channels=32, num_res_blocks=1
)
UNET = UNet(
  channels=32, channel_mult=(1, 1), num_res_blocks=1, attention_resolutions=()
)


def written(write: Callable[[Path], Any]) -> Files:
  """The files that a function puts into a folder."""
  with tempfile.TemporaryDirectory() as folder:
    write(Path(folder))
    paths = sorted(p for p in Path(folder).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def zeros(network: Any, *args: Any) -> Any:
  """Parameters of a network, all 0."""
  shapes = jax.eval_shape(network.init, jax.random.key(0), *args)["params"]
  return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def torch_files() -> list[Files]:
  """Of both formats and all protocols, with all that files may hold."""
  array = np.arange(12, dtype=np.float32)
  ema = Code(called(named("ema", "Ema")).code + body({"decay": 0.5}) + b"b")
  contents = [
    {"w": tensor(), "b": tensor(2, (2, 2), (4, 1))},
    {
      "state_dict": {"w": tensor(shape=(4, 3), strides=(1, 4))},
      "epoch": 3,
      "callbacks": {named("pl", "Checkpoint"): {"best": 0.5, "at": (1, 2)}},
      "sets": [{1, 2}, frozenset({3}), b"bytes", "text", 2**80, None, True],
      "ema": ema,
    },
    {"array": array, "scalar": np.float64(2), "ids": np.arange(5)},
  ]
  numbers = {"0": array.tobytes()}
  cases = zip(contents, (2, 4, 3), (numbers, numbers, {}), strict=True)
  return [
    written(lambda f, w=write, c=case: w(f / "x.pt", c[0], c[2], c[1]))
    for case in cases
    for write in (write_zip, write_legacy)
  ]


def module_file() -> Files:
  """DALL-E's way: a whole module of PyTorch, pickled."""
  params = zeros(ENCODER, jnp.zeros((1, 8, 8, 3)))
  tree: dict[str, Any] = {}
  storages = {}
  for name, x in dalle_dvae.to_original(params).items():
    *modules, leaf = name.split(".")
    here = tree
    for module in modules:
      here = here.setdefault(module, {})
    here[leaf] = _stored(str(len(storages)), x.shape)
    storages[str(len(storages))] = x.tobytes()
  return written(lambda f: write_zip(f / "x.pkl", _module(tree), storages))


def _stored(key: str, shape: tuple[int, ...]) -> Code:
  size = int(np.prod(shape))
  strides = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
  kind = named("torch", "FloatStorage")
  storage = Code(body(("storage", kind, key, "cpu", size)) + b"Q")
  rebuild = named("torch._utils", "_rebuild_tensor_v2")
  return called(rebuild, storage, 0, shape, tuple(strides), False, {})


def _module(tree: dict[str, Any]) -> Code:
  parts = {k: _module(v) for k, v in tree.items() if isinstance(v, dict)}
  leaves = {k: v for k, v in tree.items() if not isinstance(v, dict)}
  state = {"_parameters": leaves, "_buffers": {}, "_modules": parts}
  made = encode(called(named("dall_e", "Part")))[2:-1]
  return Code(made + body(state | {"training": False}) + b"b")


def safetensors_file() -> Files:
  state = {
    "w": np.ones((2, 3), np.float32),
    "half": np.ones(4, np.float16),
    "ids": np.arange(3),
  }
  return written(lambda f: write_safetensors(f / "x.safetensors", state))


def msgpack_file() -> Files:
  tree = {
    "params": {"w": np.ones((2, 2), np.float32), "b": np.zeros(2, np.float16)},
    "step": 3,
    "scalar": np.float32(1),
    "half": jnp.zeros(3, jnp.bfloat16),
  }
  return {"x.msgpack": msgpack_serialize(jax.tree.map(np.asarray, tree))}


def statistics_files() -> list[Files]:
  """jaxgen's, pytorch-fid's and images; whole and compressed."""
  pool = Gaussian(np.zeros(3), np.eye(3))
  classes = ClassSums(np.ones(2, int), np.ones((2, 4)), np.ones(2))
  network = ("small", "ab", "none")
  own = Statistics(
    "x:train", "ab", 9, network, pool, pool, classes, np.ones((5, 3))
  )
  images = np.zeros((3, 4, 4, 3), np.uint8)
  return [
    written(lambda f: write_statistics(f / "x.npz", own)),
    written(
      lambda f: np.savez_compressed(
        f / "x.npz", mu=np.zeros(3), sigma=np.eye(3)
      )
    ),
    written(lambda f: write_images(f / "x.npz", images)),
  ]


def pictures() -> list[Files]:
  """Of every format and colours of the data sets."""
  rng = np.random.default_rng(0)
  pixels = Image.fromarray(rng.integers(0, 256, (9, 8, 3), np.uint8))
  found = []
  for kind, mode in (
    *(("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA")),
    *(("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("BMP", "RGB")),
    *(("GIF", "P"), ("TIFF", "RGB"), ("PPM", "RGB")),
  ):
    out = io.BytesIO()
    pixels.convert(mode).save(out, kind)
    found.append({f"x.{kind.lower()}": out.getvalue()})
  return found


def picture_folder() -> Files:
  png = pictures()[1]["x.png"]
  names = ("train/owl/a.png", "train/owl/deep/b.png", "train/cat/1.png")
  return dict.fromkeys(names, png)


def label_folder() -> Files:
  png = pictures()[1]["x.png"]
  names = ("images/training/a.png", "annotations/training/a.png")
  return dict.fromkeys(names, png)


def described_folder() -> Files:
  """Images with texts in all layouts that are read."""
  png = pictures()[1]["x.png"]
  answers = [{"answer": "yes"}] * 10
  at = {"question_id": 10, "image_id": 1}
  asked = {"questions": [at | {"question": "is it?"}]}
  note = at | {"multiple_choice_answer": "yes", "answers": answers}
  other = note | {"question_id": 11, "image_id": 2}
  statement = {"identifier": "dev-1-0-0", "sentence": "both", "label": "True"}
  image = {"filename": "1.png", "filepath": "val2014", "split": "train"}
  image |= {"imgid": 1, "cocoid": 7, "sentences": [{"raw": "a cat"}]}
  photo = {"id": 3, "file_name": "3.png"}
  years = (
    "v2_OpenEnded_mscoco_{}_questions.json",
    "v2_mscoco_{}_annotations.json",
  )
  found = {
    "dataset_coco.json": {"images": [image]},
    "nocaps_val_4500_captions.json": {
      "images": [photo],
      "annotations": [{"image_id": 3, "caption": "a dog"}],
    },
    "nlvr/nlvr2/data/dev.json": statement,
    f"vqa/{years[0].format('train2014')}": asked,
    f"vqa/{years[1].format('train2014')}": {"annotations": [note] * 9},
    f"vqa/{years[0].format('val2014')}": {
      "questions": [at | {"question_id": 11, "image_id": 2, "question": "?"}]
    },
    f"vqa/{years[1].format('val2014')}": {"annotations": [other]},
  }
  images = (
    *("val2014/1.png", "val/3.png", "dev/dev-1-0-img0.png"),
    *("dev/dev-1-0-img1.png", "train2014/COCO_train2014_000000000001.jpg"),
    "val2014/COCO_val2014_000000000002.jpg",
  )
  texts = {name: json.dumps(x).encode() for name, x in found.items()}
  return texts | dict.fromkeys(images, png)


def clip_vocabulary() -> Files:
  return written(write_clip_files)


def bert_vocabulary() -> Files:
  return written(write_bert_file)


def tokenizer_file() -> Files:
  own = train_word_tokenizer(["a cat", "the cat"], 262, 8)
  return written(lambda f: own.save(f / "tokenizer.json"))


def result_file() -> Files:
  config = {"name": "tiny", "dataset": "mnist5k", "seed": 1, "steps": [1, 2]}
  score = {"FID": {"metric": "FID", "value": 1.5, "std": None}}
  row = Result(
    "T", "r", {"FID": "1.50"}, {"FID": 1.5}, config, "9 samples", 2.0, score,
    "cpu", "abc",
  )  # fmt: skip
  [(_, data)] = written(lambda f: save(row, f)).items()
  return {"x.json": data}


def checkpoint_folder() -> Files:
  """A whole workdir, as training leaves it."""
  params = {"dense": {"kernel": jnp.ones((2, 2))}}
  state = TrainState(
    step=jnp.asarray(3), params=params, ema=params, opt_state=params,
    key=jax.random.key(0),
  )  # fmt: skip
  config = {"experiment": "ddpm"} | dataclasses.asdict(CONFIGS["mnist5k"])

  def write(folder: Path) -> None:
    with Checkpoints(folder / "checkpoints", config) as checkpoints:
      checkpoints.save(state)
      checkpoints.wait()

  return written(write)


def first_stage_folder() -> Files:
  params = zeros(FIRST_STAGE, jnp.zeros((1, 8, 8, 3)))
  save = first_stage_folders.save
  files = written(lambda f: save(f, params, FIRST_STAGE, 0.5))
  return files | written(
    lambda f: write_architecture(f / "architecture.json", FIRST_STAGE)
  )


def ldm_folder() -> Files:
  """A text-to-image model."""
  config = dataclasses.replace(
    smoke(LDMS["openmoji_small"]),
    image_size=8,
    latent_size=8,
    latent_channels=4,
    channel_mult=(1,),
    max_length=4,
  )
  networks = make_networks(config, FIRST_STAGE)
  shapes = jax.eval_shape(partial(init_all, config, networks))
  params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
  workdir = written(
    lambda f: write_architecture(f / "first_stage.json", FIRST_STAGE)
  )

  def write(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as other:
      for name, content in (workdir | tokenizer_file()).items():
        (Path(other) / name).write_bytes(content)
      ldm_files.write(folder, dataclasses.asdict(config), params, Path(other))

  return written(write)


def clip_folder() -> Files:
  params = zeros(CLIP, jnp.zeros((1, 5), int))
  return written(lambda f: clip.save(f, params, CLIP))


def ddpm_folder() -> Files:
  params = zeros(UNET, jnp.zeros((1, 8, 8, 3)), jnp.zeros(1))
  return written(lambda f: ddpm.save(f, params, UNET, 8))


def inception_file() -> Files:
  """As if it were FID's network, of which it has one tensor."""
  content = {"Conv2d_1a_3x3.bn.weight": tensor(), "fc.bias": tensor()}
  numbers = {"0": np.zeros(12, np.float32).tobytes()}
  return written(lambda f: write_zip(f / "x.pth", content, numbers))


def is_zip(data: bytes) -> bool:
  return zipfile.is_zipfile(io.BytesIO(data))


def entries(data: bytes) -> Any:
  return json.loads(data)
