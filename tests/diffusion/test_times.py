"""Grids against the published sets of times."""

import numpy as np
import pytest

import jaxgen.diffusion as jd


def zero_based(times):
  """A grid as the papers' code counts: ascending, without the final 0."""
  assert times[-1] == 0
  return (times[:-1] - 1)[::-1].tolist()


def test_descending_times_of_all_steps():
  times = jd.descending_times(1000, 1000)
  np.testing.assert_array_equal(times, np.arange(1000, -1, -1))


@pytest.mark.parametrize("n", (1, 7, 50, 999))
def test_descending_times_hold_n_steps(n):
  times = jd.descending_times(1000, n)
  assert times[0] == 1000
  assert times[-1] == 0
  assert len(times) == n + 1
  assert (np.diff(times) < 0).all()
  assert np.ptp(np.diff(times)) <= 1


def test_uniform_times_are_ddims():
  assert zero_based(jd.uniform_times(1000, 10)) == list(range(0, 1000, 100))


def test_quadratic_times_are_ddims():
  expected = [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]
  assert zero_based(jd.quadratic_times(1000, 10)) == expected
  twenty = zero_based(jd.quadratic_times(1000, 20))
  assert twenty[:8] == [0, 2, 8, 19, 35, 55, 79, 108]
  assert twenty[-4:] == [567, 640, 718, 800]


@pytest.mark.parametrize(("n", "unique"), [(50, 49), (100, 96), (1000, 688)])
def test_quadratic_times_drop_repeats(n, unique):
  assert len(jd.quadratic_times(1000, n)) - 1 == unique


@pytest.mark.parametrize(
  ("T", "spec", "count", "first", "last"),
  [
    (1000, "250", 250, [0, 4, 8, 12, 16, 20], [983, 987, 991, 995, 999]),
    (1000, "50", 50, [0, 20, 41, 61, 82, 102], [917, 938, 958, 979, 999]),
    (1000, "25", 25, [0, 42, 83, 125, 166, 208], [957, 999]),
    (4000, "250", 250, [0, 16, 32], [3999]),
    (1000, "10,10,20", 40, [0, 37, 74, 111, 148, 185], [947, 964, 982, 999]),
    (300, "10,15,20", 45, [0, 11, 22, 33, 44, 55], [283, 289, 294, 299]),
    (1000, "ddim50", 50, [0, 20, 40], [960, 980]),
  ],
)
def test_respaced_times_are_improved_ddpms(T, spec, count, first, last):
  kept = zero_based(jd.respaced_times(T, spec))
  assert len(kept) == count
  assert kept[: len(first)] == first
  assert kept[-len(last) :] == last


def test_integer_strides_that_exist():
  """Of 1000 steps, the strides of improved DDPM's 'ddimN'."""
  exist = {
    *range(2, 37),
    *(38, 39, 40, 42, 44, 46, 48, 50, 53, 56, 59, 63, 67, 72, 77, 84, 91),
    *(100, 112, 125, 143, 167, 200, 250, 334, 500, 1000),
  }
  for n in range(2, 1001):
    if n in exist:
      assert len(jd.respaced_times(1000, f"ddim{n}")) == n + 1
    else:
      with pytest.raises(ValueError, match="no integer stride"):
        jd.respaced_times(1000, f"ddim{n}")


def test_sd1_times():
  """Of the released code: timesteps 981, ..., 21, 1 and alpha-bar's first."""
  assert jd.sd1_times(50)[:3].tolist() == [982, 962, 942]
  assert jd.sd1_times(50)[-4:].tolist() == [42, 22, 2, 1]
  assert jd.sd1_times(4).tolist() == [752, 502, 252, 2, 1]
  assert jd.sd1_times(500)[:2].tolist() == [1000, 998]
  assert len(jd.sd1_times(200)) == 201


@pytest.mark.parametrize(
  ("n", "taken"), [(350, 500), (400, 500), (30, 31), (64, 67)]
)
def test_sd1_times_that_the_released_code_counts_differently(n, taken):
  assert len(range(0, 1000, 1000 // n)) == taken
  with pytest.raises(ValueError, match=f"got {n}.*takes {taken} steps"):
    jd.sd1_times(n)


@pytest.mark.parametrize("n", [-1, 0, 3, 27, 1000, 2000])
def test_sd1_times_that_do_not_exist(n):
  """For 3 and 27 the released code asks for a timestep past its last."""
  with pytest.raises(ValueError, match=f"divides 1000, got {n}$"):
    jd.sd1_times(n)


def test_continuous_times():
  times = jd.continuous_times(jd.VPSDE(), 1000, 1e-3)
  assert times.shape == (1001,)
  assert times[0] == 1.0
  assert times[-1] == np.float32(1e-3)
  np.testing.assert_allclose(np.diff(times), -0.999 / 1000, rtol=1e-3)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: jd.descending_times(1000, 0), "number of steps"),
    (lambda: jd.descending_times(1000, 1001), "number of steps"),
    (lambda: jd.uniform_times(1000, 30), "divides T"),
    (lambda: jd.quadratic_times(100, 101), "number of steps"),
    (lambda: jd.respaced_times(1000, "600,600"), "600 times in a section"),
    (lambda: jd.respaced_times(1000, "ten"), "a respacing is"),
    (lambda: jd.respaced_times(1000, "10,0"), "a respacing is"),
    (lambda: jd.respaced_times(1000, "ddim60"), "no integer stride"),
    (lambda: jd.continuous_times(jd.VPSDE(), 10, 2.0), "eps in"),
    (lambda: jd.continuous_times(jd.VPSDE(), 0, 1e-3), "n >= 1"),
  ],
)
def test_bad_grids(make, message):
  with pytest.raises(ValueError, match=message):
    make()
