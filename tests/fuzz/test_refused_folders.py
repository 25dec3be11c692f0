"""What hostile images, folders, texts and checkpoints try, by name."""

import dataclasses
import io
import json
import os
import struct
import zlib

import pytest
from PIL import Image

from experiments import models, results
from experiments.ddpm.config import CONFIGS, Config
from jaxgen import data
from jaxgen.convert import clip, configs, ddpm, first_stage_folders
from jaxgen.data.images import decode_image
from jaxgen.data.tokenizers import (
  bert_tokenizer,
  clip_tokenizer,
  load_tokenizer,
)
from jaxgen.json_files import read_json
from jaxgen.metrics.files import open_images
from jaxgen.training.seal import SEAL, damage, write_seal

from . import seeds
from .pictures import write_chunks
from .refusal import refused

pytestmark = pytest.mark.usefixtures("quick")


def seal(folder):
  (folder / SEAL).unlink(missing_ok=True)
  write_seal(folder)


# Images and folders


def png(width, height, compressed):
  head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return write_chunks([(b"IHDR", head), (b"IDAT", compressed), (b"IEND", b"")])


def test_a_decompression_bomb():
  bomb = png(30_000, 30_000, zlib.compress(bytes(2**20)))
  refused(decode_image, bomb, 3, match="30000 x 30000 pixels|bomb")
  assert decode_image(png(2, 1, zlib.compress(bytes(7))), 3).shape == (1, 2, 3)


def test_postscript_is_not_run(monkeypatch):
  """PIL would start a program that interprets it."""
  from PIL import EpsImagePlugin

  started = []
  monkeypatch.setattr(
    EpsImagePlugin, "Ghostscript", lambda *a: started.append(a)
  )
  out = io.BytesIO()
  Image.new("RGB", (4, 4)).save(out, "EPS")
  refused(decode_image, out.getvalue(), 3, match="not a readable image")
  assert not started


def folder_of_images(tmp_path):
  for name, content in seeds.picture_folder().items():
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  return tmp_path


def test_links_that_lead_back(tmp_path):
  """Three links to a parent: 3^40 folders, were they followed blindly."""
  folder = folder_of_images(tmp_path)
  for name in "abc":
    (folder / "train/owl" / name).symlink_to("..", target_is_directory=True)
  (folder / "train/owl/gone.png").symlink_to("nowhere")
  (folder / "train/itself").symlink_to("itself")
  source = data.load(f"folder:{folder}")
  names = [example["file_name"] for example in source]
  assert len(names) == len(set(names)) == 4  # owl's parent holds cat's image


def test_pipes_are_not_waited_for(tmp_path):
  folder = folder_of_images(tmp_path)
  os.mkfifo(folder / "train/owl/pipe.png")
  (folder / "train/owl/folder.png").mkdir()
  assert len(list(data.load(f"folder:{folder}"))) == 3
  assert len(list(open_images(folder / "train/owl"))) == 1


# JSON, text and tokenizers


def test_deep_json(tmp_path):
  path = tmp_path / "config.json"
  for text in ("[" * 10**6, '{"a":' * 10**5 + "1" + "}" * 10**5):
    path.write_text(text)
    for read in (read_json, configs.read_config, results.read, clip.configured):
      refused(read, path, match="is not JSON: maximum recursion depth")
  path.write_bytes(b"\xff{}")
  refused(read_json, path, match="is not JSON: 'utf-8' codec can't decode")
  path.write_text("1" * 5000)
  refused(read_json, path, match="is not JSON: Exceeds the limit")


@pytest.fixture(scope="module")
def networks():
  """Whole folders, with the functions that read them."""
  return [
    (seeds.ddpm_folder(), ddpm.load),
    (seeds.first_stage_folder(), first_stage_folders.load),
  ]


@pytest.mark.parametrize(
  ("name", "value"),
  [
    ("layers_per_block", 10**9),
    ("layers_per_block", True),
    ("out_channels", -1),
    ("out_channels", "3"),
    ("block_out_channels", [0]),
    ("block_out_channels", 32),
    ("block_out_channels", [32] * 100),
    ("down_block_types", [None]),
    ("down_block_types", ["x"] * 5000),
    ("sample_size", []),
    ("sample_size", 2**63),
  ],
)
def test_configurations_of_impossible_networks(tmp_path, networks, name, value):
  for files, read in networks:
    for file, content in files.items():
      (tmp_path / file).write_bytes(content)
    entries = json.loads(files["config.json"]) | {name: value}
    (tmp_path / "config.json").write_text(json.dumps(entries))
    refused(read, tmp_path, match=r"config\.json|A first stage has blocks")


def test_merges_of_quadratic_size(tmp_path):
  """Each line joins all that was before: 8 MB of text, tokens of 4,000."""
  vocab, merges = seeds.write_clip_files(tmp_path)
  tokens = json.loads(vocab.read_text())
  lines, token = [], "a"
  for _ in range(2000):
    lines.append(f"{token} a")
    token += "a"
    tokens[token] = len(tokens)
  vocab.write_text(json.dumps(tokens))
  merges.write_text("\n".join([*lines, ""]))
  tokenizer = clip_tokenizer(vocab, merges, 9)
  assert tokenizer("a" * 20_000).shape == (1, 9)
  merges.write_text("a\n" * 100_000)
  refused(clip_tokenizer, vocab, merges, 9, match="Cannot read")


def test_tokenizers_of_endless_texts(tmp_path):
  path = tmp_path / "tokenizer.json"
  for length in (2**62, 0, 1):
    rules = json.loads(seeds.tokenizer_file()["tokenizer.json"])
    rules["truncation"]["max_length"] = length
    rules["padding"]["strategy"] = {"Fixed": length}
    path.write_text(json.dumps(rules))
    refused(load_tokenizer, path, match="tokens, wanted 2 to|Cannot read")
  path.write_text("[" * 10**5)
  refused(load_tokenizer, path, match="is not JSON")


def test_tokenizers_whose_library_panics(tmp_path):
  """A template with a mark that it does not list."""
  rules = json.loads(seeds.tokenizer_file()["tokenizer.json"])
  rules["post_processor"]["special_tokens"] = {}
  path = tmp_path / "tokenizer.json"
  path.write_text(json.dumps(rules))
  refused(load_tokenizer, path, match="Cannot read")


def test_a_vocabulary_of_other_bytes(tmp_path):
  path = tmp_path / "vocab.txt"
  path.write_bytes(b"\xff\xfe\0")
  refused(bert_tokenizer, path, match="not text in UTF-8")


# Checkpoints and results


def test_a_seal_that_names_other_files(tmp_path):
  (tmp_path / "a").mkdir()
  (tmp_path / "a/x").write_text("x")
  write_seal(tmp_path / "a")
  assert damage(tmp_path / "a") is None
  for name in ("../secret", "/etc/passwd", "x/../../y", ""):
    (tmp_path / "a" / SEAL).write_text(f"{'0' * 64}  {name}\n")
    assert "names a file outside" in damage(tmp_path / "a")


def test_a_checkpoint_does_not_choose_what_is_imported(tmp_path):
  step = tmp_path / "checkpoints/3"
  step.mkdir(parents=True)
  for name in ("quickstart", "../x", "ddpm.model", "", None, ["ddpm"], 3):
    (step / "experiment.json").write_text(json.dumps({"experiment": name}))
    seal(step)
    refused(models.load, str(tmp_path), match="are of no experiment here")
  for text in ("[]", "{", "[" * 10**5):
    (step / "experiment.json").write_text(text)
    seal(step)
    refused(models.load, str(tmp_path), match="is not JSON|holds a list")


def test_configurations_of_other_types(tmp_path):
  step = tmp_path / "checkpoints/3"
  step.mkdir(parents=True)
  whole = dataclasses.asdict(CONFIGS["mnist5k"])
  for name, value in (
    *(("beta_start", None), ("T", 1.5), ("channel_mult", 3), ("name", [])),
    *(("channel_mult", ["2"]), ("unheard_of", 1)),
  ):
    (step / "experiment.json").write_text(json.dumps(whole | {name: value}))
    seal(step)
    refused(models.restore_run, tmp_path, Config, match=name)


def test_folders_that_are_no_step(tmp_path):
  for name in ("007", "٣", "1e3", "-1"):
    (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / name / SEAL).write_text("")
  with pytest.raises(FileNotFoundError, match="no finished checkpoint"):
    models.load(str(tmp_path))


@pytest.mark.parametrize(
  ("name", "value"),
  [
    *(("ours", []), ("values", {"FID": "1"}), ("seconds", "3"), ("row", 3)),
    *(("config", {}), ("scores", {"FID": 3}), ("other", 1), ("values", None)),
  ],
)
def test_results_of_another_kind(tmp_path, name, value):
  [content] = seeds.result_file().values()
  path = tmp_path / "x.json"
  path.write_bytes(content)
  assert results.read(path).ours == {"FID": "1.50"}
  path.write_text(json.dumps(json.loads(content) | {name: value}))
  refused(results.read, path, match=f"{name}")
  path.write_text("{}")
  refused(results.read, path, match="holds no result")
