"""Writes small.spm and sentencepiece.json: a small model, and its tokens.

  python tests/data/make_sentencepiece.py

with the PyPI packages sentencepiece 0.2.3 and transformers 5.24.0.
"""

import io
import json
import shutil
import tempfile
from pathlib import Path

import sentencepiece
from transformers import XLMRobertaTokenizer

HERE = Path(__file__).parent
SENTENCES = (
  "a cat sitting on top of a red table next to a window",
  "two dogs playing in the garden with a ball",
  "a man riding a wave on top of a surfboard",
  "grinning face with tears of joy and smiling eyes",
  "people standing around a kitchen table eating pizza",
  "A small child holding an umbrella in the rain.",
  "the cat and the dog, sitting together on the window's edge!",
)
# Wide letters, ligatures, composed letters and white space, mapped as by the
# rules that SentencePiece has as its default: they would be 240 kB.
CHARACTERS = (
  *("FF21\t41", "FF22\t42", "09\t20", "0A\t20", "E9\t65 301"),
  *("2026\t2E 2E 2E", "FB01\t66 69", "3000\t20"),
)
TEXTS = (
  *SENTENCES,
  "",
  "   ",
  "  two   cats\tand\na dog ",
  "cat…",
  "\uff21 \ufb01ne caf\u00e9",
  "unknown letters: Q Z 日本 🙂🙂 end",
  "🙂 🙂 日",
  "\u2581cat",
  "windowsurfboardpizza",
  "a",
  "table " * 40,
)


def main() -> None:
  model = io.BytesIO()
  with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
    rules.write("".join(f"{line}\n" for line in CHARACTERS))
    rules.flush()
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(SENTENCES * 20),
      model_writer=model,
      vocab_size=68,
      normalization_rule_tsv=rules.name,
      character_coverage=1.0,
    )
  path = HERE / "small.spm"
  path.write_bytes(model.getvalue())
  processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
  with tempfile.TemporaryDirectory() as folder:
    shutil.copy(path, Path(folder) / "sentencepiece.bpe.model")
    fast = XLMRobertaTokenizer.from_pretrained(folder)
  stored = {
    "texts": TEXTS,
    "pieces": [processor.encode(text) for text in TEXTS],
    "decoded": [processor.decode(processor.encode(text)) for text in TEXTS],
    "transformers": [fast(text)["input_ids"] for text in TEXTS],
    "size": len(fast),
    "mask": fast.mask_token_id,
  }
  (HERE / "sentencepiece.json").write_text(json.dumps(stored) + "\n")


if __name__ == "__main__":
  main()
