"""Batches whose examples a transform makes, of a source of varied images."""

import json

import numpy as np
import pytest

from jaxgen.data import eval_batches, to_unit, train_batches

N = 31


def sized(i):
  """An image larger than 8 x 8, whose first pixel is its number."""
  image = np.random.default_rng(i).integers(0, 256, (8 + i % 5, 9, 3), np.uint8)
  image[0, 0] = i
  return image


SOURCE = [{"image": sized(i), "label": i, "caption": str(i)} for i in range(N)]


def views(example, rng):
  """Random numbers of every kind, and parts of the image."""
  image = example["image"]
  top = rng.integers(len(image) - 7)
  return {
    "image": image[top : top + 8, :8],
    "second": image[:4, :4],
    "map": image[:4, :4, 0],
    "label": example["label"],
    "mask": rng.random((2, 2)) < 0.5,
    "noise": rng.normal(size=3),
  }


def take(iterator, n):
  return [next(iterator) for _ in range(n)]


def assert_same(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key])


def test_a_batch_is_what_the_transform_returns():
  batch = next(train_batches(SOURCE, N, 8, 0, transform=views))
  kinds = {key: (value.shape, value.dtype) for key, value in batch.items()}
  assert kinds == {
    "image": ((N, 8, 8, 3), np.float32),
    "second": ((N, 4, 4, 3), np.float32),
    "map": ((N, 4, 4), np.uint8),
    "label": ((N,), np.int32),
    "mask": ((N, 2, 2), np.bool_),
    "noise": ((N, 3), np.float32),
  }
  assert sorted(batch["label"]) == list(range(N))
  for row, i in enumerate(batch["label"]):
    np.testing.assert_array_equal(
      batch["second"][row], to_unit(sized(i)[:4, :4])
    )
    np.testing.assert_array_equal(batch["map"][row], sized(i)[:4, :4, 0])
    windows = [to_unit(sized(i)[t : t + 8, :8]) for t in range(i % 5 + 1)]
    assert sum((batch["image"][row] == w).all() for w in windows) == 1


def test_draws_are_new_in_each_epoch_and_uniform():
  batches = take(train_batches(SOURCE, N, 8, 0, transform=views), 16)
  masks = np.stack([b["mask"][np.argsort(b["label"])] for b in batches])
  deviation = np.sqrt(0.25 / masks.size)
  assert abs(masks.mean() - 0.5) < 4 * deviation
  assert abs((masks[1:] == masks[:-1]).mean() - 0.5) < 4 * deviation
  assert abs((masks[:, 1:] == masks[:, :-1]).mean() - 0.5) < 4 * deviation


def test_the_seed_alone_decides():
  stream = lambda seed=3, **o: take(
    train_batches(SOURCE, 8, 8, seed, transform=views, **o), 9
  )
  plain = stream()
  for options in ({"cache": False}, {"cache": True}, {"num_threads": 3}):
    assert_same(stream(**options), plain)
  assert (stream(4)[0]["noise"] != plain[0]["noise"]).all()
  shares = [stream(process_index=i, process_count=4) for i in range(4)]
  together = [
    {key: np.concatenate([share[key] for share in step]) for key in step[0]}
    for step in zip(*shares, strict=True)
  ]
  assert_same(together, plain)


@pytest.mark.parametrize("done", [0, 2, 9])
def test_restoring_continues_bit_for_bit(done):
  iterator = train_batches(SOURCE, 8, 8, 0, transform=views)
  take(iterator, done)
  state = json.loads(json.dumps(iterator.get_state()))
  expected = take(iterator, 6)
  fresh = train_batches(SOURCE, 8, 8, 0, transform=views)
  fresh.set_state(state)
  assert_same(take(fresh, 6), expected)


@pytest.mark.slow
def test_workers_change_nothing():
  options = {"transform": views}
  plain = take(train_batches(SOURCE, 8, 8, 0, **options), 6)
  iterator = train_batches(SOURCE, 8, 8, 0, num_workers=2, **options)
  assert_same(take(iterator, 6), plain)
  iterator.close()


def test_a_transform_changes_no_order():
  """The same seed deals the same examples with and without a transform."""
  source = [{"image": e["image"][:8, :8], "label": e["label"]} for e in SOURCE]
  as_it_is = lambda example, rng: example
  options = {"transform": as_it_is}
  assert_same(
    take(train_batches(source, 8, 8, 0, **options), 9),
    take(train_batches(source, 8, 8, 0), 9),
  )


def test_raw_images_are_kept_whole_and_cannot_be_written_to():
  seen = []

  class Counting(list):
    def __getitem__(self, index):
      seen.append(index)
      return super().__getitem__(index)

  take(train_batches(Counting(SOURCE), N, 8, 0, transform=views), 3)
  assert set(seen) == set(range(N))
  assert len(seen) <= N + 8

  def scribble(example, rng):
    example["image"][:] = 0
    return example

  with pytest.raises(ValueError, match="read-only"):
    next(train_batches(SOURCE, 8, 8, 0, transform=scribble))
  assert SOURCE[1]["image"].flags.writeable


def test_a_large_image_keeps_the_cache_off(monkeypatch):
  monkeypatch.setattr("jaxgen.data.batches.CACHE_BYTES", N * 300)
  seen = []

  class Counting(list):
    def __getitem__(self, index):
      seen.append(index)
      return super().__getitem__(index)

  large = [*SOURCE[:12], {"image": np.zeros((90, 90, 3), np.uint8)}]
  source = Counting(large + SOURCE[13:])
  transform = lambda example, rng: {"image": example["image"][:8, :8]}
  batches = train_batches(source, N, 8, 0, transform=transform)
  seen.clear()
  take(batches, 2)
  assert len(seen) == 2 * N


def test_tokens_are_added():
  batch = next(
    train_batches(
      SOURCE, 8, 8, 0, transform=views, tokenize=lambda text: [int(text)]
    )
  )
  np.testing.assert_array_equal(batch["tokens"][:, 0], batch["label"])


def corner(example):
  return {"image": example["image"][:8, :8], "number": example["label"]}


def test_eval_is_one_pass_in_order():
  batches = list(eval_batches(SOURCE, 8, 8, transform=corner))
  assert len(batches) == 4
  assert batches[0].keys() == {"image", "number", "mask"}
  mask = np.concatenate([batch["mask"] for batch in batches])
  numbers = np.concatenate([batch["number"] for batch in batches])
  np.testing.assert_array_equal(numbers[mask], np.arange(N))
  images = np.concatenate([batch["image"] for batch in batches])
  expected = to_unit(np.stack([e["image"][:8, :8] for e in SOURCE]))
  np.testing.assert_array_equal(images[mask], expected)
  assert (images[~mask] == -1).all()


@pytest.mark.parametrize(
  ("options", "error", "message"),
  [
    ({"flip": True}, ValueError, "a transform takes the place of flip"),
    ({"crop": lambda i, s: i}, ValueError, "takes the place of crop"),
    ({"image_size": 9}, ValueError, "transform returned 8 x 8 .* image_size=9"),
    ({"transform": lambda e, r: e["image"]}, TypeError, "by name, got ndarray"),
    ({"transform": lambda e, r: e}, TypeError, "numbers, got caption of type"),
    (
      {"transform": lambda e, r: {"map": e["image"]}},
      ValueError,
      r"maps of a batch differ in shape: \[\(8, 9, 3\), ",
    ),
    (
      {"transform": lambda e, r: {str(e["label"]): 0}},
      ValueError,
      "examples of a batch have .* and ",
    ),
  ],
)
def test_train_batches_says_what_is_wrong(options, error, message):
  arguments = {"batch_size": 8, "image_size": 8, "seed": 0, "transform": views}
  with pytest.raises(error, match=message):
    next(train_batches(SOURCE, **{**arguments, **options}))


def test_eval_batches_says_what_is_wrong():
  with pytest.raises(ValueError, match="may not return `mask`"):
    eval_batches(SOURCE, 8, 8, transform=lambda e: {"mask": 0})
  with pytest.raises(ValueError, match="takes the place of crop"):
    eval_batches(SOURCE, 8, 8, transform=corner, crop=lambda i, s: i)
  for batches in (
    lambda: train_batches(SOURCE, 8, None, 0),
    lambda: eval_batches(SOURCE, 8, None),
  ):
    with pytest.raises(ValueError, match="image_size=None is for a transform"):
      batches()
