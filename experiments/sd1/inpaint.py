"""Paints a part of an image anew, by a text.

  python -m experiments.sd1.inpaint --weights sd-v1-5-inpainting.ckpt \\
    --init dog.png --mask mask.png --prompt "a tiger sitting on a park bench"

The mask is white where to paint. runwayml's inpainting model sees the mask and
the rest of the image. With the weights of a text-to-image model the rest is put
back after every step, at the noise of that step (Song et al. 2021, App. I.2);
its borders show more. Either way the pixels outside the mask stay as they are.
"""

import tyro

from experiments.cli import command_line
from experiments.sd1 import config, files
from experiments.sd1.config import How
from experiments.sd1.pipeline import Start
from experiments.sd1.task import Task, prepare, run
from jaxgen.convert import sd1

DEFAULT = How()


def main(
  task: tyro.conf.OmitArgPrefixes[Task],
  init: str,
  mask: str,
  strength: float = 1.0,
  how: tyro.conf.OmitArgPrefixes[How] = DEFAULT,
) -> None:
  """Writes PNG images that hold their parameters, and a grid.

  Args:
    task: what to make.
    init: the image, resized as in `img2img`.
    mask: an image of the same shape, white where to paint.
    strength: 1 to begin with noise, less to keep something of what was there.
    how: how to sample.
  """
  config.check_strength(strength, how.steps)
  unit = config.multiple(sd1.SD1)
  image = files.read_image(init, (how.height, how.width), unit)
  start = Start(image, strength, files.read_mask(mask, *image.shape[:2]))
  run(prepare(task, how), task, how, start, init=init, mask=mask)


if __name__ == "__main__":
  command_line(lambda: tyro.cli(main))
