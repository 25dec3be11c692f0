"""What tests of several experiments share."""

import jax
import pytest

from jaxgen import training


@pytest.fixture(scope="module")
def one_device():
  """Runs on the first device alone, which compile a third sooner.

  Others stay on eight: those of ddpm, iddpm, first_stage and beit3.
  """
  make_mesh = training.make_mesh

  def on_first(**kwargs):
    return make_mesh(**kwargs | {"devices": jax.devices()[:1]})

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(training, "make_mesh", on_first)
    yield
