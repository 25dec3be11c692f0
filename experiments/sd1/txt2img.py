"""Images of a text.

  python -m experiments.sd1.txt2img --weights sd-v1-4.ckpt \\
    --prompt "a photograph of an astronaut riding a horse"

The defaults are those of the release's script: 50 PLMS steps, scale 7.5, 512 x
512. A single file needs CLIP's vocab.json and merges.txt beside it, or
`--tokenizer FOLDER`; a folder of diffusers has them. On a GPU `--dtype bfloat16
--flash` is the fast way.
"""

import tyro

from experiments.cli import command_line
from experiments.sd1.config import How
from experiments.sd1.task import Task, prepare, run

DEFAULT = How()


def main(
  task: tyro.conf.OmitArgPrefixes[Task],
  how: tyro.conf.OmitArgPrefixes[How] = DEFAULT,
) -> None:
  """Writes PNG images that hold their parameters, and a grid.

  Args:
    task: what to make.
    how: how to sample.
  """
  run(prepare(task, how), task, how)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
