"""Vocabularies in the published formats, small, made without any download."""

import json

MERGES = (
  *("t h", "th e</w>", "a n", "an d</w>", "c a", "ca t</w>", "' s</w>"),
  *("Ã ©</w>", "! !</w>", "i n", "ð Ł"),
)
MARKS = ("<|startoftext|>", "<|endoftext|>")
BERT_MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = (
  *("the", "cat", "hat", "and", "##s", "un", "##hat", "cafe", "'", "1", "##2"),
  *(".", "-", "!", ",", "a", "##a", "x", "日", "i", "b", "don", "t", "e"),
)


def byte_letters():
  """The letters that stand for the 256 bytes, in CLIP's order.

  Printable bytes stand for themselves, the others for letters from 256 on.
  """
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  others = 256 - len(printable)
  return [chr(code) for code in (*printable, *range(256, 256 + others))]


def write_clip_files(folder):
  """vocab.json and merges.txt; the marks are its last two tokens, as CLIP's."""
  letters = byte_letters()
  tokens = [*letters, *(letter + "</w>" for letter in letters)]
  tokens += [pair.replace(" ", "") for pair in MERGES]
  tokens += MARKS
  vocab, merges = folder / "vocab.json", folder / "merges.txt"
  vocab.write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
  merges.write_text("\n".join(["#version: 0.2", *MERGES, ""]))
  return vocab, merges


def write_bert_file(folder):
  """vocab.txt."""
  path = folder / "vocab.txt"
  path.write_text("".join(f"{token}\n" for token in (*BERT_MARKS, *PIECES)))
  return path
