"""PyTorch files built by hand; tests/parity reads those of PyTorch itself."""

import builtins
import logging
import os
import pickle
import sys
import zipfile

import numpy as np
import pytest
from torch_pickles import (
  NUMBERS,
  SYSTEM,
  Call,
  Code,
  body,
  called,
  encode,
  named,
  tensor,
  write_legacy,
  write_zip,
)

from jaxgen.convert.pickles import Opaque
from jaxgen.convert.state import write_safetensors
from jaxgen.convert.torch_files import read_state, read_torch

FORMATS = pytest.mark.parametrize("write", [write_zip, write_legacy])


@FORMATS
@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_plain_values(tmp_path, write, protocol):
  content = {
    "list": [1, -2, 2**40, 2**80, 0.5, None, True, "é", b"\x00\xff"],
    "nested": {"tuple": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4))},
    "sets": [{1, 2}, frozenset({3})],
    5: "a number as key",
  }
  content["list"].append(content["nested"])
  write(tmp_path / "x.pt", content, protocol=protocol)
  read = read_torch(tmp_path / "x.pt")
  assert read == content
  assert read["list"][-1] is read["nested"]


def test_a_list_within_itself(tmp_path):
  loop = [1]
  loop.append(loop)
  write_zip(tmp_path / "x.pt", loop)
  read = read_torch(tmp_path / "x.pt")
  assert read[1] is read


@FORMATS
def test_views_of_one_storage(tmp_path, write):
  content = {
    "all": tensor(),
    "transposed": tensor(shape=(4, 3), strides=(1, 4)),
    "offset": tensor(5, (2, 2), (4, 1)),
    "repeated": tensor(3, (2, 5), (1, 0)),
    "scalar": tensor(11, (), ()),
    "empty": tensor(0, (0, 10**6), (1, 1)),
    "odd stride": tensor(11, (1,), (10**30,)),
  }
  write(tmp_path / "x.pt", content, {"0": NUMBERS.tobytes()})
  read = read_torch(tmp_path / "x.pt")
  np.testing.assert_array_equal(read["all"], NUMBERS)
  np.testing.assert_array_equal(read["transposed"], NUMBERS.reshape(3, 4).T)
  np.testing.assert_array_equal(read["offset"], [[5, 6], [9, 10]])
  np.testing.assert_array_equal(read["repeated"], [[3] * 5, [4] * 5])
  assert read["scalar"].shape == ()
  assert read["scalar"] == 11
  assert read["empty"].shape == (0, 10**6)
  assert read["odd stride"] == [11]
  assert np.shares_memory(read["all"], read["transposed"])
  assert not read["offset"].flags.writeable


@FORMATS
@pytest.mark.parametrize(
  "bad",
  [
    tensor(offset=1),
    tensor(shape=(13,)),
    tensor(shape=(3, 4), strides=(5, 1)),
    tensor(shape=(2, 10**9), strides=(12, 0)),
    tensor(offset=10**40),
    tensor(offset=-1, shape=(1,)),
    tensor(strides=(-1,)),
    tensor(shape=(4.0,)),
    tensor(shape=(True,)),
    tensor(shape=(3, 4), strides=(1,)),
    tensor(shape=None),
    tensor(shape=(1,) * 99, strides=(1,) * 99),
    tensor(size=10**15),
    tensor(size=11),
    tensor(size=-12),
    tensor(size="12"),
    tensor(kind="DoubleStorage"),
    tensor(kind="QInt8Storage"),
    tensor(kind="nn.Module"),
  ],
  ids=lambda bad: "",
)
def test_views_that_do_not_fit_their_storage(tmp_path, write, bad):
  write(tmp_path / "x.pt", {"w": bad}, {"0": NUMBERS.tobytes()})
  for read in (read_torch, read_state):
    with pytest.raises(ValueError, match=r"^Cannot read .*x\.pt: .*\.$"):
      read(tmp_path / "x.pt")


@FORMATS
@pytest.mark.parametrize(
  "place",
  [
    lambda attack: attack,
    lambda attack: {"state_dict": {"w": attack}},
    lambda attack: [((attack,),)],
    lambda attack: {"w": called(named("torch._utils", "_rebuild_x"), attack)},
    lambda attack: Code(
      called(named("pl", "Trainer")).code + body({"x": attack}) + b"b"
    ),
    lambda attack: Code(body(("storage", attack, "0", "cpu", 1)) + b"Q"),
  ],
)
@pytest.mark.parametrize(
  "function", [os.system, builtins.eval, builtins.exec, builtins.getattr]
)
def test_attacks_are_refused(tmp_path, write, place, function):
  trace = tmp_path / "trace"
  command = {
    os.system: (f"touch {trace}",),
    builtins.getattr: (os, "system"),
  }.get(function, (f"open({str(trace)!r}, 'w')",))
  if function is getattr:
    attack = called(named("builtins", "getattr"), "os", "system")
  else:
    attack = Call(function, *command)
  write(tmp_path / "x.pt", place(attack))
  name = rf"{function.__module__}\.{function.__name__}"
  for read in (read_torch, read_state):
    with pytest.raises(ValueError, match=f"it names {name}, which is no data"):
      read(tmp_path / "x.pt")
  assert not trace.exists()
  # The trap is set: pickle itself would have run it.
  if function is not getattr and not isinstance(place(attack), Code):
    pickle.loads(pickle.dumps(attack, 2))
    assert trace.exists()


def test_an_attack_before_the_first_number(tmp_path):
  path, trace = tmp_path / "x.pt", tmp_path / "trace"
  path.write_bytes(encode(Call(os.system, f"touch {trace}"), protocol=4))
  with pytest.raises(ValueError, match=r"it names posix\.system"):
    read_torch(path)
  assert not trace.exists()


@FORMATS
def test_unknown_names_are_neither_imported_nor_called(tmp_path, write):
  trace = tmp_path / "trace"
  sys.modules.pop("this", None)
  content = {
    "made": Call(logging.FileHandler, str(trace)),
    "poem": named("this", "s"),
    "called twice": called(called(named("this", "s"), 1), 2),
  }
  write(tmp_path / "x.pt", content)
  read = read_torch(tmp_path / "x.pt")
  assert read["made"].name == "logging.FileHandler"
  assert read["made"].args == (str(trace),)
  assert read["poem"].name == "this.s"
  assert read["poem"].args is None
  assert read["called twice"].args == (2,)
  assert not trace.exists()
  assert "this" not in sys.modules


@FORMATS
def test_a_lightning_checkpoint(tmp_path, write):
  checkpoint = named("pytorch_lightning.callbacks", "ModelCheckpoint")
  config = called(named("omegaconf.dictconfig", "DictConfig"))
  attributes = {"_content": {"lr": 0.1}, "_parent": None}
  content = {
    "epoch": 3,
    "state_dict": {"w": tensor()},
    "callbacks": {checkpoint: {"best": tensor(2, (), ())}},
    "hyper_parameters": Code(config.code + body(attributes) + b"b"),
  }
  write(tmp_path / "x.ckpt", content, {"0": NUMBERS.tobytes()})
  read = read_torch(tmp_path / "x.ckpt")
  ((callback, state),) = read["callbacks"].items()
  assert isinstance(callback, Opaque)
  assert callback.name == "pytorch_lightning.callbacks.ModelCheckpoint"
  assert state == {"best": 2}
  assert read["hyper_parameters"].state == attributes
  assert read["hyper_parameters"].args == ()
  (name, array), *rest = read_state(tmp_path / "x.ckpt").items()
  assert (name, rest) == ("w", [])
  np.testing.assert_array_equal(array, NUMBERS)


def test_the_state_must_be_unambiguous(tmp_path):
  path = tmp_path / "x.pt"
  storages = {"0": NUMBERS.tobytes()}
  write_zip(path, {"model": {"a": tensor()}, "ema": {"b": tensor()}}, storages)
  assert set(read_state(path, "model")) == {"a"}
  assert set(read_state(path, key="ema")) == {"b"}
  with pytest.raises(
    ValueError, match=r"holds the state dictionaries .model., .ema., which is"
  ):
    read_state(path)
  with pytest.raises(
    ValueError, match=r"dictionaries .model., .ema., not .net.\.$"
  ):
    read_state(path, "net")
  write_zip(path, {"model": {"a": tensor(), "lr": 0.1}, "step": 3}, storages)
  with pytest.raises(ValueError, match=r"holds no state dictionary\.$"):
    read_state(path)
  with pytest.raises(ValueError, match=r"holds no state dictionary\.$"):
    read_state(path, "model")
  write_zip(path, [1, 2])
  with pytest.raises(ValueError, match=r"holds no state dictionary\.$"):
    read_state(path)


def test_safetensors_by_their_suffix(tmp_path):
  path = tmp_path / "x.safetensors"
  write_safetensors(path, {"w": NUMBERS})
  np.testing.assert_array_equal(read_state(path)["w"], NUMBERS)
  with pytest.raises(ValueError, match="safetensors have no keys"):
    read_state(path, "ema")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@FORMATS
def test_truncated_and_corrupt_files(tmp_path, write):
  path = tmp_path / "x.pt"
  write(path, {"w": tensor(), "n": [1, (2, 3)]}, {"0": NUMBERS.tobytes()})
  whole = path.read_bytes()
  for length in range(len(whole)):
    path.write_bytes(whole[:length])
    with pytest.raises(ValueError, match=r"^Cannot read .*x\.pt: .*\.$"):
      read_torch(path)
  rng = np.random.default_rng(0)
  faults = []
  for _ in range(500):  # of which some change only a number or a name
    damaged = bytearray(whole)
    for place in rng.integers(len(whole), size=3):
      damaged[place] = rng.integers(256)
    path.write_bytes(damaged)
    try:
      read_torch(path)
    except ValueError as error:
      faults.append(str(error))
  assert len(faults) > 100
  assert not any("\n" in fault for fault in faults)


def test_files_of_other_kinds(tmp_path):
  path = tmp_path / "x.pt"
  with pytest.raises(FileNotFoundError, match="no checkpoint file"):
    read_torch(path)
  for other in (b"", b"hello", b"\x89PNG\r\n", pickle.dumps({"w": 1}, 2)):
    path.write_bytes(other)
    with pytest.raises(ValueError, match="begins like another kind of file"):
      read_torch(path)
  np.savez(path.with_suffix(".npz"), x=NUMBERS)
  with pytest.raises(ValueError, match=r"has 0 records data\.pkl"):
    read_torch(path.with_suffix(".npz"))
  write_zip(path, {}, **{"constants.pkl": b"", "code/x.py": b""})
  with pytest.raises(ValueError, match="is a TorchScript program"):
    read_torch(path)
  write_zip(path, {}, byteorder=b"big")
  with pytest.raises(ValueError, match="byte order is b'big'"):
    read_torch(path)
  write_zip(path, {"w": tensor()})
  with pytest.raises(ValueError, match="has no record archive/data/0"):
    read_torch(path)
  write_legacy(path, {}, system=SYSTEM | {"little_endian": False})
  with pytest.raises(ValueError, match="protocol 1001 of a system"):
    read_torch(path)


def test_compressed_records_are_refused(tmp_path):
  bomb = bytes(10**6)
  with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("archive/data.pkl", bomb)
  with pytest.raises(ValueError, match=r"data\.pkl is compressed"):
    read_torch(tmp_path / "x.pt")


def test_deep_nesting_is_one_sentence(tmp_path):
  value = Code(b"]" * 100_000 + b"a" * 99_999)
  write_zip(tmp_path / "x.pt", value)
  with pytest.raises(ValueError, match="RecursionError"):
    read_torch(tmp_path / "x.pt")
