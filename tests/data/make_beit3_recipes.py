"""Writes beit3_recipes.json: the options of BEiT-3's published commands.

python tests/data/make_beit3_recipes.py UNILM_CHECKOUT
"""

import json
import re
import sys
from pathlib import Path

OPTION = re.compile(r"--(\w+)((?:[= ](?!-)[^\s\\]+)*)")


def main() -> None:
  folder = Path(sys.argv[1]) / "beit3/get_started"
  commands = []
  for path in sorted(folder.glob("*.md")):
    text = path.read_text()
    for block in re.findall(r"```bash\s*(python.*?)```", text, re.DOTALL):
      options = {
        name: value.strip("= ") for name, value in OPTION.findall(block)
      }
      if "lr" in options:
        kept = {k: v.split(" run")[0] for k, v in options.items()}
        kept = {k: v for k, v in kept.items() if "/" not in v}
        commands.append(kept)
  path = Path(__file__).with_name("beit3_recipes.json")
  path.write_text(json.dumps(commands, indent=1) + "\n")


if __name__ == "__main__":
  main()
