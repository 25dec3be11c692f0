"""Batches from a source whose labels are the indices of its examples."""

import json

import numpy as np
import pytest

from jaxgen.data import (
  batch_examples,
  celeba_crop,
  eval_batches,
  to_unit,
  train_batches,
)

N = 103
ONE_HOST = {"process_index": 0, "process_count": 1}


def noise(n=N, height=8, width=8, channels=3, seed=0):
  shape = (n, height, width, channels)
  images = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
  return [{"image": image, "label": i} for i, image in enumerate(images)]


SOURCE = noise()
IMAGES = np.stack([example["image"] for example in SOURCE])


def take(iterator, n):
  return [next(iterator) for _ in range(n)]


def labels(batches):
  return np.concatenate([batch["label"] for batch in batches])


def assert_same(batches, others):
  assert len(batches) == len(others)
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for key in batch:
      np.testing.assert_array_equal(batch[key], other[key])


def test_a_batch_is_unit_images_and_their_labels():
  batch = next(train_batches(SOURCE, 16, 8, 0))
  assert batch["image"].shape == (16, 8, 8, 3)
  assert batch["image"].dtype == np.float32
  assert batch["label"].dtype == np.int32
  expected = IMAGES[batch["label"]] / 127.5 - 1
  np.testing.assert_allclose(batch["image"], expected, atol=1e-6)


def test_every_epoch_is_a_permutation():
  epochs = labels(take(train_batches(SOURCE, 8, 8, 3), N)).reshape(8, N)
  np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(N), (8, 1)))
  assert len({tuple(epoch) for epoch in epochs}) == 8


def test_shuffling_is_global():
  # Every place of the epoch sees early and late examples.
  epochs = labels(take(train_batches(SOURCE, N, 8, 0), 100))
  mean = epochs.reshape(100, N).mean(0)
  deviation = np.sqrt((N**2 - 1) / 12 / 100)
  assert np.abs(mean - (N - 1) / 2).max() < 4.5 * deviation


def test_the_seed_decides():
  first = labels(take(train_batches(SOURCE, 8, 8, 0), 5))
  again = labels(take(train_batches(SOURCE, 8, 8, 0), 5))
  other = labels(take(train_batches(SOURCE, 8, 8, 1), 5))
  np.testing.assert_array_equal(first, again)
  assert (first != other).mean() > 0.9


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_batches_of_one_host(hosts):
  alone = take(train_batches(SOURCE, 8, 8, 0, flip=True, **ONE_HOST), 30)
  shares = [
    take(
      train_batches(
        SOURCE, 8, 8, 0, flip=True, process_index=i, process_count=hosts
      ),
      30,
    )
    for i in range(hosts)
  ]
  assert shares[0][0]["image"].shape == (8 // hosts, 8, 8, 3)
  together = [
    {key: np.concatenate([share[key] for share in step]) for key in step[0]}
    for step in zip(*shares, strict=True)
  ]
  assert_same(together, alone)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_an_epoch_of_all_hosts_has_every_example_once(hosts):
  source = SOURCE[:96]  # 12 batches of 8
  shares = [
    train_batches(source, 8, 8, 5, process_index=i, process_count=hosts)
    for i in range(hosts)
  ]
  for _ in range(2):
    seen = np.concatenate([labels(take(share, 12)) for share in shares])
    np.testing.assert_array_equal(np.sort(seen), np.arange(96))


@pytest.mark.parametrize(("before", "after"), [(2, 4), (4, 1), (1, 2)])
def test_other_numbers_of_hosts_continue(before, after):
  def hosts(count):
    return [
      train_batches(
        SOURCE, 8, 8, 0, flip=True, process_index=i, process_count=count
      )
      for i in range(count)
    ]

  expected = train_batches(SOURCE, 8, 8, 0, flip=True, **ONE_HOST)
  expected = take(expected, 25)[15:]
  states = []
  for share in hosts(before):
    take(share, 15)  # beyond an epoch of 103
    states.append(share.get_state())
  assert all(state == states[0] for state in states)
  shares = hosts(after)
  for share in shares:
    share.set_state(states[0])
  steps = zip(*(take(share, 10) for share in shares), strict=True)
  together = [
    {key: np.concatenate([share[key] for share in step]) for key in step[0]}
    for step in steps
  ]
  assert_same(together, expected)


# 5 batches of 16 lie within the first epoch of 103, 17 in the third.
@pytest.mark.parametrize("done", [0, 1, 5, 17])
@pytest.mark.parametrize("options", [{}, {"num_threads": 2}, {"cache": False}])
def test_restoring_continues_bit_for_bit(done, options):
  iterator = train_batches(SOURCE, 16, 8, 0, flip=True, **options)
  take(iterator, done)
  state = json.loads(json.dumps(iterator.get_state()))
  expected = take(iterator, 20)
  fresh = train_batches(SOURCE, 16, 8, 0, flip=True, **options)
  fresh.set_state(state)
  assert_same(take(fresh, 20), expected)
  fresh.set_state(state)
  assert_same(take(fresh, 3), expected[:3])


def test_threads_and_cache_change_nothing():
  plain = take(train_batches(SOURCE, 16, 8, 0, flip=True, cache=False), 20)
  for options in ({"cache": True}, {"num_threads": 3}):
    other = train_batches(SOURCE, 16, 8, 0, flip=True, **options)
    assert_same(take(other, 20), plain)


@pytest.mark.slow
def test_workers_change_nothing_and_restore():
  """From any number of them to any other, none included."""
  plain = take(train_batches(SOURCE, 16, 8, 0, flip=True), 12)
  states = []
  for workers in (0, 2):
    iterator = train_batches(SOURCE, 16, 8, 0, flip=True, num_workers=workers)
    assert_same(take(iterator, 7), plain[:7])
    states.append(iterator.get_state())
    iterator.close()
  assert states[0] == states[1]
  for workers in (0, 1, 2):
    fresh = train_batches(SOURCE, 16, 8, 0, flip=True, num_workers=workers)
    fresh.set_state(states[0])
    assert_same(take(fresh, 5), plain[7:])
    fresh.close()


def test_positions_that_are_none():
  batches = train_batches(SOURCE, 16, 8, 0, num_workers=2)
  for state in ({"next_index": -1}, {}, b"3", {"next_index": "3"}):
    with pytest.raises(ValueError, match="is no position in the data"):
      batches.set_state(state)


@pytest.mark.slow
def test_an_example_that_a_worker_cannot_read_is_named():
  source = Unreadable(SOURCE)
  source.error = OSError(5, "Input/output error")
  batches = train_batches(source, 16, 8, 0, num_workers=1)
  with pytest.raises(OSError, match=r"example 37: .*output error"):
    take(batches, 8)
  batches.close()


def flips(batches):
  """Whether each image is mirrored; fails unless it is that or unchanged."""
  flipped = []
  for batch in batches:
    for image, label in zip(batch["image"], batch["label"], strict=True):
      original = to_unit(IMAGES[label])
      mirrored = (image == original[:, ::-1]).all()
      assert mirrored != (image == original).all()
      flipped.append(mirrored)
  return np.array(flipped)


def test_flips_are_left_right_with_probability_half():
  batches = take(train_batches(SOURCE, N, 8, 0, flip=True), 40)
  flipped = flips(batches)
  deviation = np.sqrt(0.25 / len(flipped))
  assert abs(flipped.mean() - 0.5) < 4 * deviation
  # Drawn anew in each epoch: any two agree on about half of the images.
  order = np.argsort(labels(batches).reshape(40, N), axis=1)
  by_image = np.take_along_axis(flipped.reshape(40, N), order, axis=1)
  agreement = (by_image[1:] == by_image[:-1]).mean()
  assert abs(agreement - 0.5) < 4 * deviation


def test_without_flip_nothing_is_mirrored():
  assert not flips(take(train_batches(SOURCE, 8, 8, 0), 20)).any()


def test_the_cache_decodes_once():
  seen = []

  class Counting(list):
    def __getitem__(self, index):
      seen.append(index)
      return super().__getitem__(index)

  take(train_batches(Counting(SOURCE), N, 8, 0), 3)
  assert sorted(seen) in (list(range(N)), [0, *range(N)])
  seen.clear()
  take(train_batches(Counting(SOURCE), N, 8, 0, cache=False), 3)
  assert len(seen) == 3 * N


@pytest.mark.parametrize("batch_size", [10, 8, 103, 200])
@pytest.mark.parametrize("num_threads", [0, 2])
def test_eval_is_one_pass_in_order(batch_size, num_threads):
  batches = list(eval_batches(SOURCE, batch_size, 8, num_threads=num_threads))
  assert len(batches) == -(-N // batch_size)
  assert {len(batch["label"]) for batch in batches} == {batch_size}
  mask = np.concatenate([batch["mask"] for batch in batches])
  np.testing.assert_array_equal(labels(batches)[mask], np.arange(N))
  images = np.concatenate([batch["image"] for batch in batches])[mask]
  np.testing.assert_array_equal(images, to_unit(IMAGES))
  assert mask.dtype == np.bool_
  assert not mask[N:].any()


def test_eval_hosts_share_the_epoch():
  shares = [
    list(eval_batches(SOURCE, 20, 8, process_index=i, process_count=4))
    for i in range(4)
  ]
  assert {len(share) for share in shares} == {6}
  seen = [
    label
    for share in shares
    for batch in share
    for label in batch["label"][batch["mask"]]
  ]
  assert sorted(seen) == list(range(N))


def test_crop_and_unlabelled_images():
  source = [{"image": e["image"]} for e in noise(4, 218, 178)]
  batch = next(eval_batches(source, 4, 64, crop=celeba_crop))
  assert batch.keys() == {"image", "mask"}
  expected = np.stack([celeba_crop(e["image"], 64) for e in source])
  np.testing.assert_array_equal(batch["image"], to_unit(expected))


def test_tokens_of_captions():
  source = [e | {"caption": "abc"[: i % 4]} for i, e in enumerate(SOURCE)]

  def tokenize(text):
    return [ord(c) for c in text.ljust(3)]

  batch = next(train_batches(source, 8, 8, 0, tokenize=tokenize))
  assert batch["tokens"].shape == (8, 3)
  assert batch["tokens"].dtype == np.int32
  for tokens, label in zip(batch["tokens"], batch["label"], strict=True):
    assert "".join(map(chr, tokens)).strip() == "abc"[: label % 4]
  with pytest.raises(ValueError, match="tokenize needs a data set with capt"):
    next(train_batches(SOURCE, 8, 8, 0, tokenize=tokenize))


@pytest.mark.parametrize("seed", [0, 7])
def test_the_examples_of_a_batch_are_known(seed):
  """Those that its labels name, beyond an epoch of 103, too."""
  for n, batch in enumerate(take(train_batches(SOURCE, 16, 8, seed), 9)):
    found = batch_examples(N, 16, seed, n)
    np.testing.assert_array_equal(found, batch["label"])
  with pytest.raises(ValueError, match="batch must be at least 0, got -1"):
    batch_examples(N, 16, seed, -1)


class Unreadable(list):
  """One of its examples cannot be had."""

  def __getitem__(self, index):
    if index == 37:
      raise self.error
    return super().__getitem__(index)


@pytest.mark.parametrize(
  ("error", "kind", "message"),
  [
    (OSError(5, "Input/output error"), OSError, "example 37: .*output error"),
    (ValueError("a\nb"), ValueError, "example 37: a b"),
    (RuntimeError(), ValueError, "example 37: RuntimeError"),
    (ValueError("d, example 37: no"), ValueError, "^d, example 37: no"),
  ],
)
def test_an_example_that_cannot_be_read_is_named(error, kind, message):
  source = Unreadable(SOURCE)
  source.error = error
  with pytest.raises(kind, match=message):
    take(train_batches(source, 16, 8, 0, **ONE_HOST), 8)
  with pytest.raises(kind, match=message):
    list(eval_batches(source, 16, 8, **ONE_HOST))


def test_an_example_that_cannot_be_changed_is_named():
  def transform(example, rng):
    if example["label"] == 37:
      raise ZeroDivisionError("division by zero")
    return {"image": example["image"]}

  batches = train_batches(SOURCE, 16, 8, 0, transform=transform)
  with pytest.raises(ValueError, match=r"^example 37: division by zero"):
    take(batches, 8)


def half_size(image, size):
  return image[: size // 2]


@pytest.mark.parametrize(
  ("source", "options", "message"),
  [
    (SOURCE, {"batch_size": 104}, "batch_size=104 is larger than the data set"),
    (SOURCE, {"batch_size": 0}, "positive multiple of the 1 proc.*, got 0"),
    (SOURCE, {"process_count": 3}, "positive multiple of the 3 proc.*, got 8"),
    (SOURCE, {"process_index": 1}, "no process 1 of 1"),
    (SOURCE, {"seed": -1}, "seed must lie in"),
    (SOURCE, {"image_size": 9}, "8 x 8 is too small for image_size=9"),
    (SOURCE, {"crop": half_size}, "crop returned 4 x 8 pixels"),
    (noise(channels=2), {}, r"C = 1 or 3, got \(8, 8, 2\)"),
    (noise()[:9] + noise(channels=1)[9:], {}, "batch differ in shape"),
  ],
)
def test_train_batches_says_what_is_wrong(source, options, message):
  arguments = {"batch_size": 8, "image_size": 8, "seed": 0, **ONE_HOST}
  with pytest.raises(ValueError, match=message):
    take(train_batches(source, **{**arguments, **options}), 5)


def test_eval_batches_says_what_is_wrong():
  with pytest.raises(ValueError, match="the data set is empty"):
    eval_batches([], 8, 8)
  with pytest.raises(ValueError, match="multiple of the 3 processes"):
    eval_batches(SOURCE, 8, 8, process_index=0, process_count=3)
  with pytest.raises(TypeError, match="uint8 array"):
    eval_batches([{"image": np.zeros((8, 8, 3))}], 1, 8)
