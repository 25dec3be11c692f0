"""Downloads and prepares a data set: `python -m jaxgen.data.prepare NAME`.

NAME is a data set of TensorFlow Datasets, such as cifar10 or lsun/bedroom. It
is written as array_record files, which `jaxgen.data.load` reads.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from jaxgen.data.loading import make_builder


def prepare(name: str, data_dir: str | os.PathLike[str] | None = None) -> str:
  """Downloads and prepares a data set unless that is done; its folder.

  Raises:
    ValueError: there is no such data set, or the folder holds it in a format
      without random access.
    ImportError: its builder needs a package, often TensorFlow, that is not
      installed. Reading it needs none.
    RuntimeError: TFDS could not download or prepare it.
  """
  builder = make_builder(name, data_dir)
  try:
    builder.download_and_prepare(file_format="array_record")
  except ImportError as error:
    raise ImportError(
      f"preparing {name} needs a package that reading it will not: {error}"
    ) from error
  except Exception as error:  # the builders of TFDS raise every kind
    raise RuntimeError(f"cannot prepare {name}: {error}") from error
  stored = builder.info.file_format.value
  if stored != "array_record":
    raise ValueError(
      f"{builder.data_dir} already holds {name} as {stored}: give another "
      "folder with --data_dir"
    )
  return str(builder.data_dir)


def main(arguments: Sequence[str] | None = None) -> int:
  """The command line; 0 if the data set is ready."""
  parser = argparse.ArgumentParser(
    prog="python -m jaxgen.data.prepare", description=__doc__
  )
  parser.add_argument("name", help="such as cifar10, celeb_a, lsun/bedroom")
  parser.add_argument("--data_dir", help="default: ~/tensorflow_datasets")
  options = parser.parse_args(arguments)
  try:
    print(prepare(options.name, options.data_dir))
  except (ValueError, ImportError, RuntimeError) as error:
    print(error, file=sys.stderr)
    return 1
  return 0


if __name__ == "__main__":
  sys.exit(main())
