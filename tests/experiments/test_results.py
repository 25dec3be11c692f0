"""Verdicts on the papers' claims."""

import math

import pytest

from experiments import results

CLAIM = results.Claim("a is below b", ("a", "FID"), ("b", "FID"))


@pytest.mark.parametrize(
  ("smaller", "larger", "verdict"),
  [
    ([1.0], [2.0], "seen"),
    ([2.0], [1.0], "not seen"),
    ([110.6], [111.1], "undecided"),
    ([1.0], [math.inf], "seen"),
    ([3.50, 3.51], [3.52, 3.53], "seen"),
    ([3.50, 3.53], [3.52, 3.54], "not seen"),
    ([1.0], [], "not run"),
  ],
)
def test_a_claim_is_seen_where_every_run_says_so(smaller, larger, verdict):
  found = [
    results.Result("T", row, {}, {"FID": fid}, {"dataset": "d"}, "", 0.0)
    for row, fids in (("a", smaller), ("b", larger))
    for fid in fids
  ]
  text = results.claims("T", [CLAIM], found)
  wanted = verdict if verdict == "not run" else f"**{verdict}**"
  assert f"- a is below b: {'d: ' if larger else ''}{wanted}" in text
