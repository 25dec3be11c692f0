"""How a hostile file is to be refused."""

import pytest


def refused(read, *args, match):
  with pytest.raises(ValueError, match=match) as caught:
    read(*args)
  assert type(caught.value) is ValueError
  assert "\n" not in str(caught.value)
  assert len(str(caught.value)) < 1000
