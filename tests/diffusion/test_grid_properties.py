"""Schedules and grids of times, whatever their sizes."""

import functools

import hypothesis
import hypothesis.strategies as st
import numpy as np

import jaxgen.diffusion as jd

few = functools.partial(
  hypothesis.settings,
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)


@few(max_examples=50)
@hypothesis.given(
  T=st.integers(1, 300),
  start=st.floats(1e-5, 0.01),
  width=st.floats(0, 0.5),
)
def test_schedules(T, start, width):
  end = start + width
  for betas in (
    jd.linear_betas(T, start, end),
    jd.scaled_linear_betas(T, start, end),
    jd.cosine_betas(T),
  ):
    assert betas.shape == (T,)
    assert betas.dtype == np.float64
    assert ((betas > 0) & (betas < 1)).all()
    assert (np.diff(betas) >= -1e-12).all()
  sigmas = jd.geometric_sigmas(T, start + width + 1, start)
  assert sigmas.shape == (T,)
  assert (np.diff(sigmas) < 0).all()
  ratios = sigmas[1:] / sigmas[:-1]
  np.testing.assert_allclose(ratios, ratios[:1].repeat(max(T - 1, 0)))


@few(max_examples=60)
@hypothesis.given(data=st.data(), T=st.integers(2, 1000))
def test_grids_descend_from_noise_to_data(data, T):
  n = data.draw(st.integers(1, T))
  divisor = data.draw(
    st.sampled_from([d for d in range(1, T + 1) if not T % d])
  )
  half = T // 2
  counts = [data.draw(st.integers(1, half)) for _ in range(2)]
  found = {
    "descending": (jd.descending_times(T, n), n, T),
    "uniform": (jd.uniform_times(T, divisor), divisor, None),
    "quadratic": (jd.quadratic_times(T, n), None, None),
    "linspace": (jd.linspace_times(T, n), n, T),
    "respaced": (
      jd.respaced_times(T, "{},{}".format(*counts)),
      sum(counts),
      None,
    ),
    "karras": (jd.karras_times(max(2, n), 0.01, T), max(2, n), T),
  }
  for name, (times, steps, first) in found.items():
    assert (np.diff(times) < 0).all(), name
    assert times[-1] == 0
    assert times[0] <= T * (1 + 1e-5)
    if steps is not None:
      assert len(times) == steps + 1, name
    if first is not None:
      np.testing.assert_allclose(times[0], first, rtol=1e-5)
  eps = data.draw(st.floats(1e-5, 0.5))
  times = jd.continuous_times(jd.VPSDE(), n, eps)
  assert len(times) == n + 1
  np.testing.assert_allclose(times[[0, -1]], [1, eps], rtol=1e-6)
