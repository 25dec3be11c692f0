"""PyTorch files as `torch.load` reads them."""

import collections

import numpy as np
import pytest

from jaxgen.convert.torch_files import read_state, read_torch

torch = pytest.importorskip("torch")

FORMATS = pytest.mark.parametrize(
  "zipped", [True, False], ids=["zip", "legacy"]
)
DTYPES = [
  *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
  *(torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64, torch.complex128),
  *(torch.int64, torch.int32, torch.int16, torch.int8, torch.bool),
  *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
]


def save(path, content, zipped):
  torch.save(content, path, _use_new_zipfile_serialization=zipped)
  return path


def assert_equal(ours, theirs):
  if theirs.dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
    theirs = theirs.float()
  theirs = theirs.numpy(force=True)
  assert ours.dtype == theirs.dtype
  np.testing.assert_array_equal(ours, theirs, strict=True)


@FORMATS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(tmp_path, zipped, dtype):
  x = (20 * torch.randn(3, 4, generator=torch.Generator().manual_seed(0))).abs()
  x = (x > 10) if dtype == torch.bool else x.to(dtype)
  path = save(tmp_path / "x.pt", {"x": x, "number": x[1, 2]}, zipped)
  read = read_torch(path)
  # What torch.load gives, where it can: not the newest types in old files.
  assert_equal(read["x"], x)
  assert_equal(read["number"], x[1, 2])


@FORMATS
def test_views(tmp_path, zipped):
  base = torch.arange(60.0).reshape(3, 4, 5)
  content = {
    "base": base,
    "transposed": base.permute(2, 0, 1),
    "rows": base[1:],
    "columns": base[:, ::2, 1::3],
    "number": base[1, 2, 3],
    "diagonal": base[0].diagonal(),
    "expanded": base[2, 3].expand(7, 5),
    "channels last": base[None].to(memory_format=torch.channels_last),
    "empty": base[:, :0],
    "nothing": torch.empty(0),
    "zero": torch.tensor(0.5),
    "windows": base.flatten().unfold(0, 4, 2),
    "own": base.clone(),
  }
  path = save(tmp_path / "x.pt", content, zipped)
  read, loaded = read_torch(path), torch.load(path)
  assert list(read) == list(loaded)
  for name, x in loaded.items():
    assert_equal(read[name], x)
  for name, x in loaded.items():
    storages = x.untyped_storage(), loaded["base"].untyped_storage()
    shared = storages[0].data_ptr() == storages[1].data_ptr() and x.numel() > 0
    assert np.shares_memory(read[name], read["base"]) == shared


@FORMATS
def test_containers(tmp_path, zipped):
  content = {
    "ordered": collections.OrderedDict(a=torch.ones(2), b=torch.zeros(2)),
    "default": collections.defaultdict(list, {1: [2]}),
    "counter": collections.Counter("abca"),
    "plain": [1, 2**70, -0.5, None, True, "text", b"bytes", b"", {1, 2}, 1e300],
    "size": torch.Size([2, 3]),
    "tuple": (1, (2, [3])),
    "parameter": torch.nn.Parameter(torch.arange(3.0)),
    "numbers": [np.float64(1.5), np.int32(-3), np.bool_(True)],
    "array": np.arange(6, dtype=">i2").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "complex": np.array(1 + 2j),
  }
  path = save(tmp_path / "x.pt", content, zipped)
  read, loaded = read_torch(path), torch.load(path, weights_only=False)
  for name in ("default", "counter", "plain", "size", "tuple", "numbers"):
    assert read[name] == loaded[name], name
  assert isinstance(read["numbers"][0], np.float64)
  for name in ("array", "fortran", "complex"):
    np.testing.assert_array_equal(read[name], loaded[name])
  assert read["fortran"].flags.f_contiguous
  assert_equal(read["parameter"], loaded["parameter"])
  assert list(read["ordered"]) == ["a", "b"]
  assert_equal(read["ordered"]["a"], loaded["ordered"]["a"])


@FORMATS
def test_state_of_a_module_and_its_optimizer(tmp_path, zipped):
  module = torch.nn.Sequential(
    torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.PReLU()
  )
  optimizer = torch.optim.Adam(module.parameters())
  module(torch.ones(2, 3, 5, 5)).sum().backward()
  optimizer.step()
  checkpoint = {
    "epoch": 7,
    "model": module.half().state_dict(),
    "optimizer": optimizer.state_dict(),
  }
  path = save(tmp_path / "x.pt", checkpoint, zipped)
  state, loaded = read_state(path), torch.load(path)
  assert list(state) == list(loaded["model"])
  for name, x in loaded["model"].items():
    if x.dtype == torch.float16:
      assert_equal(state[name], x.float())
    else:
      assert_equal(state[name], x)
  moments = read_torch(path)["optimizer"]["state"]
  for index, theirs in loaded["optimizer"]["state"].items():
    for name, x in theirs.items():
      assert_equal(moments[index][name], x)


@FORMATS
def test_a_whole_module_becomes_its_attributes(tmp_path, zipped):
  path = save(tmp_path / "x.pt", torch.nn.Linear(2, 3), zipped)
  read = read_torch(path)
  assert read.name == "torch.nn.modules.linear.Linear"
  assert read.state["in_features"] == 2
  loaded = torch.load(path, weights_only=False)
  assert_equal(read.state["_parameters"]["weight"], loaded.weight.detach())


def test_later_pickle_protocols(tmp_path):
  content = {"x": torch.arange(5), "s": {1, 2}, "f": frozenset({3}), "b": b"b"}
  for protocol in (3, 4, 5):
    path = tmp_path / f"{protocol}.pt"
    torch.save(content, path, pickle_protocol=protocol)
    read = read_torch(path)
    assert_equal(read.pop("x"), content["x"])
    assert read == {"s": {1, 2}, "f": frozenset({3}), "b": b"b"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_scripted_module_is_refused(tmp_path):
  torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), tmp_path / "x.pt")
  with pytest.raises(ValueError, match="is a TorchScript program"):
    read_torch(tmp_path / "x.pt")
