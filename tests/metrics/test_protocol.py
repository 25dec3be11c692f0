import dataclasses
import json

import pytest

from jaxgen.metrics.protocol import Protocol, Score, from_dict

PROTOCOL = Protocol(
  "inception-2015", "6726825d", "tf1", "cifar10:train", 50_000, "round"
)


def fid(value, **changes):
  protocol = dataclasses.replace(PROTOCOL, **changes)
  return Score("FID", value, None, "0 to 49999", protocol)


def test_scores_of_one_protocol_compare():
  a, b = fid(3.17), dataclasses.replace(fid(5.24), seeds="7 to 50006")
  assert a < b
  assert b > a
  assert min(b, a) is a
  assert b - a == pytest.approx(2.07)


@pytest.mark.parametrize(
  ("field", "value"),
  [
    ("features", "mnist5k-cnn"),
    ("weights", "other"),
    ("resize", "clean"),
    ("reference", "cifar10:test"),
    ("n", 10_000),
    ("rounding", "truncate"),
    ("setting", "k = 5"),
  ],
)
def test_scores_of_other_protocols_do_not(field, value):
  a, b = fid(3.17), fid(3.17, **{field: value})
  for compare in (lambda: a - b, lambda: a < b, lambda: sorted([a, b])):
    with pytest.raises(ValueError, match=f"differ in {field}"):
      compare()


def test_metrics_do_not_compare_with_others():
  kid = dataclasses.replace(fid(0.1), metric="KID")
  with pytest.raises(ValueError, match="FID and KID are different metrics"):
    _ = fid(1.0) - kid
  with pytest.raises(TypeError, match=r"got 3\.17"):
    _ = fid(1.0) < 3.17


def test_scores_survive_json():
  score = Score("IS", 9.46, 0.11, "0 to 9", PROTOCOL)
  text = json.dumps(dataclasses.asdict(score))
  assert from_dict(json.loads(text)) == score
  assert str(score) == "9.46 ± 0.11"
  assert str(dataclasses.replace(score, value=0.0123, std=None)) == "0.0123"
