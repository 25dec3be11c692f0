"""All metrics of a set of generated images against a set of real ones."""

from jaxgen.metrics.distances import frechet_distance, kernel_distance
from jaxgen.metrics.inception_score import SPLITS, inception_score
from jaxgen.metrics.precision_recall import precision_recall
from jaxgen.metrics.protocol import Protocol, Score
from jaxgen.metrics.statistics import Statistics

INCEPTION = "inception-2015"
NEIGHBOURS = 3
SUBSETS = 100
SUBSET_SIZE = 1000


def scores(
  generated: Statistics,
  reference: Statistics,
  rounding: str = "given",
  seeds: str = "",
) -> dict[str, Score]:
  """FID, sFID, IS, KID, precision and recall, as far as statistics allow.

  With another network than FID's Inception-v3 the names say so: "FID
  (mnist5k-cnn)".

  Args:
    generated: of the images to judge.
    reference: of the real ones; from a foreign file it may hold only what FID
      and sFID need.
    rounding: how generated images became 8-bit, for the protocol.
    seeds: of the generated images, for the protocol.

  Raises:
    ValueError: if the two are known to come from different networks.
  """
  network, other = generated.network, reference.network
  if generated.n is None or network is None:
    raise ValueError("generated images need statistics made by `collect`")
  if other is not None and other != network:
    raise ValueError(
      f"the reference {reference.source} has features of {' '.join(other)}, "
      f"the generated images of {' '.join(network)}"
    )
  n, found = generated.n, {}

  def add(metric, value, std=None, setting="", to=reference.name):
    name = metric if network[0] == INCEPTION else f"{metric} ({network[0]})"
    protocol = Protocol(*network, to, n, rounding, setting)
    found[metric] = Score(name, value, std, seeds, protocol)

  add("FID", frechet_distance(generated.pool, reference.pool))
  if generated.spatial is not None and reference.spatial is not None:
    add("sFID", frechet_distance(generated.spatial, reference.spatial))
  if generated.classes is not None:
    score, std = inception_score(generated.classes)
    add("IS", score, std, f"{SPLITS} splits", to="")
  if generated.kept is not None and reference.kept is not None:
    fake, real = generated.kept, reference.kept
    counts = f"first {len(fake)} and {len(real)} images"
    size = min(SUBSET_SIZE, len(fake), len(real))
    value, std = kernel_distance(fake, real, SUBSETS, size)
    add("KID", value, std, f"{SUBSETS} subsets of {size}, {counts}")
    precision, recall = precision_recall(real, fake, NEIGHBOURS)
    add("precision", precision, None, f"k = {NEIGHBOURS}, {counts}")
    add("recall", recall, None, f"k = {NEIGHBOURS}, {counts}")
  return found
