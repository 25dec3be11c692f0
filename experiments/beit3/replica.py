"""BEiT-3 in small, in one command: does masked data modelling help retrieval?

  python -m experiments.beit3.replica

On openmoji: a discrete autoencoder is trained; with its tokens a small network
is pre-trained on the emoji, their names, and both; then a dual encoder is
trained to find the emoji of a name, from the pre-trained trunk and from
scratch, and searches the emoji held out. All but the autoencoder once for every
seed. From scratch all layers have the full rate; all else is equal.

A seed takes about half an hour on one CPU core; a second call continues what
was stopped. With three seeds, pre-training lifts R@1 from 13.4% to 17.2% (texts
of images) and from 13.6% to 17.3% (images of texts), of 450 emoji held out.

Pre-training sees no other data than retrieval does, while the paper's saw
thousands of times as much: what helps here can only be the objective, and that
there are more updates.
"""

import dataclasses
import json
from pathlib import Path

import tyro

from experiments import results
from experiments.beit3 import pretrain, retrieval
from experiments.beit3.config import PRETRAININGS
from experiments.beit3.retrieval_config import RETRIEVALS
from experiments.cli import command_line
from experiments.dvae import train as dvae
from experiments.dvae.config import SMALL
from experiments.results import Result

# 4 x 4 tokens of 32 pixels, as the network's patches.
TOKENIZER = dataclasses.replace(
  SMALL["openmoji64"],
  name="openmoji32",
  dataset="openmoji/32",
  image_size=32,
  crop="center",
  num_tokens=128,
  channels=16,
  num_blocks=1,
  code_width=64,
  beta_steps=300,
  tau_steps=1500,
  lr_steps=2000,
  steps=2000,
  save_every=1000,
)


def replicate(
  seeds: tuple[int, ...] = (0, 1, 2),
  out: str = "runs/beit3-replica",
  smoke: bool = False,
) -> str:
  """Trains everything, or what is not there yet, and makes the table.

  Args:
    seeds: of pre-training and retrieval.
    out: the directory of all runs and of table.md.
    smoke: shrink every run to a few steps of a tiny network.

  Returns:
    The table and the claims, as Markdown.
  """
  folder = Path(out)
  tokenizer = str(folder / "tokenizer")
  dvae.train(dataclasses.replace(TOKENIZER, workdir=tokenizer, smoke=smoke))
  found = []
  for seed in seeds:
    trunk = str(folder / f"pretrain-{seed}")
    pretrain.train(
      dataclasses.replace(
        PRETRAININGS["openmoji32"],
        tokenizer=tokenizer,
        seed=seed,
        workdir=trunk,
        smoke=smoke,
      )
    )
    decay = RETRIEVALS["openmoji32"].layer_decay
    kinds = (("scratch", "", 1.0), ("pretrained", trunk, decay))
    for kind, init, layer_decay in kinds:
      workdir = retrieval.train(
        dataclasses.replace(
          RETRIEVALS["openmoji32"],
          init=init,
          layer_decay=layer_decay,
          seed=seed,
          workdir=str(folder / f"{kind}-{seed}"),
          smoke=smoke,
        )
      )
      found.append(read_result(workdir))
  title, rows = retrieval.TITLE, retrieval.ROWS
  text = results.table(title, rows, found)
  text += results.averages(title, found)
  text += results.claims(title, retrieval.CLAIMS, found)
  (folder / "table.md").write_text(text)
  print(text)
  print(f"saved: {folder / 'table.md'}")
  return text


def read_result(workdir: Path) -> Result:
  """The result file that retrieval left in its workdir."""
  (path,) = workdir.glob("beit-3-retrieval-*.json")
  return Result(**json.loads(path.read_text()))


if __name__ == "__main__":
  command_line(lambda: tyro.cli(replicate))
