"""What hostile files try, by name, each an error of one sentence at once."""

import dataclasses
import io
import json
import os
import struct
import time
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from torch_pickles import (
  NUMBERS,
  Code,
  body,
  called,
  named,
  tensor,
  write_legacy,
  write_zip,
)

from experiments import models, results
from experiments.ddpm.config import CONFIGS, Config
from jaxgen import data
from jaxgen.convert import clip, configs, dalle_dvae, ddpm, first_stage_folders
from jaxgen.convert.flax_files import read_msgpack
from jaxgen.convert.state import read_safetensors, write_safetensors
from jaxgen.convert.torch_files import read_state, read_torch
from jaxgen.data.images import decode_image
from jaxgen.data.tokenizers import (
  bert_tokenizer,
  clip_tokenizer,
  load_tokenizer,
)
from jaxgen.json_files import read_json
from jaxgen.messages import reason, shown
from jaxgen.metrics.files import open_images, read_images, read_statistics
from jaxgen.training.seal import SEAL, damage, write_seal
from jaxgen.zip_files import BoundedReader

from . import seeds
from .pictures import write_chunks

WRITERS = pytest.mark.parametrize("write", [write_zip, write_legacy])
NESTED = b")" + b"2\x86" * 60  # a tuple of 2^60 parts
DEEP = b")" + b"\x85" * 100_000  # whose hash would overflow C's stack


@pytest.fixture(autouse=True)
def quick():
  """Whatever a file holds, its refusal takes no time."""
  start = time.process_time()
  yield
  assert time.process_time() - start < 10


def refused(read, *args, match):
  with pytest.raises(ValueError, match=match) as caught:
    read(*args)
  assert type(caught.value) is ValueError
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 1000


# Pickles


@WRITERS
@pytest.mark.parametrize(
  ("code", "match"),
  [
    (b"}" + NESTED + b"Ns", "a key of over 1000 parts"),
    (b"}" + DEEP + b"Ns", "a key of over 1000 parts"),
    (b"}(" + NESTED + b"Nu", "a key of over 1000 parts"),
    (b"(" + NESTED + b"Nd", "a key of over 1000 parts"),
    (b"\x8f(" + NESTED + b"\x90", "a key of over 1000 parts"),
    (b"(" + NESTED + b"\x91", "a key of over 1000 parts"),
    (b"cbuiltins\nset\n(" + NESTED + b"l\x85R", "a key of over 1000 parts"),
    (b"cbuiltins\nfrozenset\n(" + NESTED + b"t\x85R", "a key of over 1000"),
    (
      b"ccollections\nOrderedDict\n(" + NESTED + b"N\x86l\x85R",
      "a key of over 1000 parts",
    ),
    (b"(X\x07\0\0\0storagectorch\nFloatStorage\n" + NESTED + b"NK\1tQ", "stor"),
    (b"(" + NESTED + b"ctorch\nX\nNNK\1tQ", "it refers to a"),
  ],
  ids=lambda value: "",
)
def test_small_pickles_of_huge_values(tmp_path, write, code, match):
  write(tmp_path / "x.pt", Code(code))
  refused(read_torch, tmp_path / "x.pt", match=match)


@WRITERS
@pytest.mark.parametrize(
  "call",
  [
    b"ctorch\nSize\nh\0\x85R",
    b"cbuiltins\nset\nh\0\x85R",
    b"ctorch._utils\n_rebuild_parameter\nh\0R",
    b"ca\nb\nh\0}\x92",
    b"h\0Q",
  ],
)
def test_copies_of_a_long_value(tmp_path, write, call):
  """10,000 calls that each copy 10,000 values: 800 MB from 200 kB."""
  code = (
    b"((" + b"N" * 10_000 + b"tq\x00" + b"0" + (call + b"0") * 10_000 + b"t"
  )
  write(tmp_path / "x.pt", Code(code))
  refused(
    read_torch, tmp_path / "x.pt", match="copies more than it holds|damag"
  )


@WRITERS
def test_a_view_that_repeats_a_number(tmp_path, write):
  content = {"w": tensor(shape=(2**40,), strides=(0,))}
  write(tmp_path / "x.pt", content, {"0": NUMBERS.tobytes()})
  refused(read_torch, tmp_path / "x.pt", match="repeats the 12 numbers")


@WRITERS
def test_shapes_that_overflow(tmp_path, write):
  for shape, strides in (
    ((2**63,), (1,)),
    ((2**32, 2**32), (0, 0)),
    ((2**62, 4), (0, 1)),
    ((2**31, 2**31, 2**31), (0, 0, 0)),
  ):
    content = {"w": tensor(shape=shape, strides=strides)}
    write(tmp_path / "x.pt", content, {"0": NUMBERS.tobytes()})
    refused(read_torch, tmp_path / "x.pt", match="Cannot read")


@WRITERS
def test_subclasses_call_tensors_alone(tmp_path, write):
  """The door of tensor subclasses leads to no other function."""
  rebuild = named("torch._tensor", "_rebuild_from_type_v2")
  kind, size = named("my", "Tensor"), named("torch", "Size")
  write(tmp_path / "x.pt", called(rebuild, size, kind, ((1, 2),), None))
  assert read_torch(tmp_path / "x.pt").name == "my.Tensor"
  attack = called(rebuild, named("os", "system"), kind, ("true",), None)
  write(tmp_path / "x.pt", attack)
  refused(read_torch, tmp_path / "x.pt", match=r"names os\.system")


@WRITERS
def test_arrays_of_objects(tmp_path, write):
  """numpy's own pickles, with a type that is a pointer."""
  for order in ("O,<", "(9999999,)<", "<f4,|O,"):
    kind = called(named("numpy", "dtype"), "f4", False, True)
    kind = Code(
      kind.code + body((3, order, None, None, None, -1, -1, 0)) + b"b"
    )
    scalar = named("numpy.core.multiarray", "scalar")
    write(tmp_path / "x.pt", called(scalar, kind, b"12345678"))
    assert read_torch(tmp_path / "x.pt").name.endswith("scalar")


# Archives


def test_a_record_twice(tmp_path):
  path = tmp_path / "x.pt"
  write_zip(path, {"w": 1})
  with (
    zipfile.ZipFile(path, "a") as archive,
    pytest.warns(UserWarning, match="Duplicate"),
  ):
    archive.writestr("archive/data.pkl", b"\x80\x02K\x01.")
  refused(read_torch, path, match="two records of one name")


def test_records_that_share_their_bytes(tmp_path):
  """Each 1 MB, all of them the same: 100 MB from 1 MB."""
  path = tmp_path / "x.pt"
  write_zip(path, {"w": 1}, **{"data/0": bytes(2**20)})
  data = bytearray(path.read_bytes())
  start = data.index(b"PK\x01\x02")
  end = data.index(b"PK\x05\x06")
  entries = bytes(data[start:end])
  last = entries[entries.rindex(b"PK\x01\x02") :]
  copies = b"".join(
    last.replace(b"data/0", b"data/%c" % (65 + i)) for i in range(20)
  )
  total = struct.pack("<HHI", 22, 22, len(entries + copies))
  tail = bytes(data[end : end + 8]) + total + bytes(data[end + 16 :])
  path.write_bytes(bytes(data[:start]) + entries + copies + tail)
  refused(read_torch, path, match="larger than the file")


def test_a_directory_of_4_gigabytes(tmp_path):
  """Nothing may be allocated for what an archive only says that it has."""
  path = tmp_path / "x.pt"
  write_zip(path, {"w": 1})
  data = bytearray(path.read_bytes())
  end = data.rindex(b"PK\x05\x06")
  data[end + 12 : end + 16] = b"\xff" * 4
  path.write_bytes(data)
  with BoundedReader(io.FileIO(path)) as file:
    assert len(file.read(2**62)) == len(data)
    assert file.read(2**62) == b""
  refused(read_torch, path, match="Cannot read")


def test_names_that_lead_out_are_only_names(tmp_path):
  folder = tmp_path / "inner"
  folder.mkdir()
  with zipfile.ZipFile(folder / "x.pt", "w") as archive:
    archive.writestr("../data.pkl", b"\x80\x02K\x07.")
    archive.writestr("/tmp/../../evil", b"x")
  assert read_torch(folder / "x.pt") == 7
  assert os.listdir(tmp_path) == ["inner"]
  assert os.listdir(folder) == ["x.pt"]


def npz(path, header, content=b"", name="arr_0.npy", how=zipfile.ZIP_STORED):
  head = header.encode().ljust(118) + b"\n"
  start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head))
  with zipfile.ZipFile(path, "w", how) as archive:
    archive.writestr(name, start + head + content)


@pytest.mark.parametrize(
  ("shape", "descr"),
  [
    ("(2**40,)", "|u1"),
    (f"({2**63},)", "|u1"),
    (f"({2**32}, {2**32})", "|u1"),
    ("(-1, 4)", "|u1"),
    ("(10000000000,)", "<f8"),
    ("(1, 1, 1, 1)", "|O"),
    ("__import__('os').system('true')", "|u1"),
    ("(" * 5000, "|u1"),
  ],
)
def test_headers_of_arrays(tmp_path, shape, descr):
  path = tmp_path / "x.npz"
  npz(path, f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}")
  refused(read_images, path, match="is not a whole .npz file")
  refused(read_statistics, path, match="is not a whole .npz file")


def test_arrays_without_data(tmp_path):
  """2^40 images of no pixels, which a list would hold one by one."""
  path = tmp_path / "x.npz"
  shape = f"({2**40}, 0, 8, 3)"
  npz(path, f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}")
  refused(open_images, path, match="without data")


def test_a_zip_bomb(tmp_path):
  path = tmp_path / "x.npz"
  np.savez_compressed(path, arr_0=np.zeros(80 * 2**20, np.uint8))
  assert path.stat().st_size < 100_000
  refused(read_images, path, match="would unpack to over 6")


@pytest.mark.parametrize(
  "about",
  [
    *("[1]", "{}", "{", "[" * 100_000, '{"network": null}'),
    '{"source": "a", "digest": "b", "n": 1e99, "network": null}',
    '{"source": 1, "digest": "b", "n": 3, "network": null}',
    '{"source": "a", "digest": "b", "n": 3, "network": ["x"]}',
    '{"source": "a", "digest": "b", "n": -3, "network": null}',
  ],
)
def test_statistics_of_strange_origin(tmp_path, about):
  path = tmp_path / "x.npz"
  np.savez(path, mu=np.zeros(2), sigma=np.eye(2), about=np.array(about))
  refused(read_statistics, path, match="holds no statistics")


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
  refused(load_tokenizer, path, match="Cannot read")


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


def seal(folder):
  (folder / SEAL).unlink(missing_ok=True)
  write_seal(folder)


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


# Modules, safetensors, msgpack


def module(parts):
  state = {"_parameters": {}, "_buffers": {}, "_modules": parts}
  made = called(named("dall_e", "Part")).code
  return Code(made + body(state) + b"b")


def test_modules_within_themselves(tmp_path):
  path = tmp_path / "x.pkl"
  # q 99: the module; its part "a" is itself.
  code = b"ca\nb\n)R" + b"q\x63" + body({"_parameters": {}, "_buffers": {}})
  inner = b"X\x08\0\0\0_modules}X\x01\0\0\0ah\x63ss" + b"b"
  write_zip(path, Code(code + inner))
  refused(dalle_dvae.load, path, seeds.ENCODER, match="is there twice")
  shared = b"ca\nb\n)R" + body({"_parameters": {}, "_modules": {}}) + b"b"
  for _ in range(60):  # 2^60 parts
    shared = (
      b"ca\nb\n)R}X\x08\0\0\0_modules}X\x01\0\0\0a"
      + shared
      + b"q\x63sX\x01\0\0\0"
      b"bh\x63ssb"
    )
  write_zip(path, Code(shared))
  refused(dalle_dvae.load, path, seeds.ENCODER, match="is there twice")
  write_zip(path, {5: tensor()}, {"0": NUMBERS.tobytes()})
  refused(dalle_dvae.load, path, seeds.ENCODER, match="neither a module nor")


def test_names_that_are_no_line(tmp_path):
  path = tmp_path / "x.safetensors"
  write_safetensors(
    path, {"a\nb\x1b[31m" + "c" * 10_000: np.zeros(1, np.float32)}
  )
  state = read_safetensors(path)
  refused(ddpm.from_diffusers, state, seeds.UNET, match="no conv_in")
  state |= {"conv_in.weight": np.zeros((32, 3, 3, 3), np.float32)}
  refused(ddpm.from_diffusers, state, seeds.UNET, match="unused: a")


def test_deep_msgpack(tmp_path):
  path = tmp_path / "x.msgpack"
  path.write_bytes(b"\x91" * 10**6)
  refused(read_msgpack, path, match="not a whole Flax checkpoint")
  path.write_bytes(b"\xdd\xff\xff\xff\xff")  # a list of 2^32
  refused(read_msgpack, path, match="not a whole Flax checkpoint")


def test_safetensors_of_impossible_sizes(tmp_path):
  path = tmp_path / "x.safetensors"
  for shape in ([2**63], [2**32, 2**32], [-1], [2**40]):
    entry = {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}
    header = json.dumps({"w": entry}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(read_state, path, match="not a whole safetensors file")
  path.write_bytes(struct.pack("<Q", 2**63) + b"{}")
  refused(read_state, path, match="not a whole safetensors file")


def test_messages_are_short():
  value = ()
  for _ in range(60):
    value = (value, value)
  long = ("x" * 10**6, b"x" * 10**6, [[[[[[1]]]]]], {"a": "b\nc"})
  for other in (value, *long):
    assert len(shown(other)) < 250
    assert "\n" not in shown(other)
  assert (
    shown(("a", 1, 0.5, None, True, b"x")) == "('a', 1, 0.5, None, True, b'x')"
  )
  assert reason(ValueError("two\n lines\x1b")) == "two lines?"
  assert reason(KeyError()) == "KeyError"
