"""Images of a text, from an image (SDEdit; Meng et al. 2022).

  python -m experiments.sd1.img2img --weights sd-v1-4.ckpt --init sketch.png \\
    --strength 0.75 --prompt "a fantasy landscape, trending on artstation"

Of the sampler's steps the last int(strength x steps) are run, from the image
with the noise of the first of them: diffusers' img2img. The release's script
adds one level more.
"""

import tyro

from experiments.cli import command_line
from experiments.sd1 import config, files
from experiments.sd1.config import How
from experiments.sd1.pipeline import Start
from experiments.sd1.task import Task, prepare, run
from jaxgen.convert import sd1

DEFAULT = How(sampler="ddim")


def main(
  task: tyro.conf.OmitArgPrefixes[Task],
  init: str,
  strength: float = 0.75,
  how: tyro.conf.OmitArgPrefixes[How] = DEFAULT,
) -> None:
  """Writes PNG images that hold their parameters, and a grid.

  Args:
    task: what to make.
    init: the image to start from, resized to the height and width asked for,
      else to the nearest multiples of 64 below its own.
    strength: in (0, 1]; at 1 little is left of the image.
    how: how to sample.
  """
  config.check_strength(strength, how.steps)
  unit = config.multiple(sd1.SD1)
  image = files.read_image(init, (how.height, how.width), unit)
  run(prepare(task, how), task, how, Start(image, strength), init=init)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
