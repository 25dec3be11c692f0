"""Prompts as tokens, and what of them is lost."""

import sys
from collections.abc import Sequence

import numpy as np

from jaxgen.data.tokenizers import TextTokenizer


def encode(tokenizer: TextTokenizer, prompts: Sequence[str]) -> np.ndarray:
  """Tokens `[B, 77]`, int32; says on stderr which words of a prompt are cut."""
  for prompt in dict.fromkeys(prompts):
    if words := lost(tokenizer, prompt):
      print(
        f"warning: a prompt has more than {tokenizer.length} tokens, these "
        f"words are lost: {words}",
        file=sys.stderr,
      )
  return tokenizer(prompts)


def lost(tokenizer: TextTokenizer, prompt: str) -> str:
  """The end of a prompt from the first word that the tokenizer cuts; or ""."""
  code = tokenizer.rules.encode(prompt)
  if not code.overflowing:
    return ""
  start = code.overflowing[0].offsets[1][0]  # the first offset is a mark's
  while start and not prompt[start - 1].isspace():
    start -= 1
  return " ".join(prompt[start:].split())
