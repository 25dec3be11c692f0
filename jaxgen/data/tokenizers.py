"""Captions as tokens: CLIP's and BERT's published tokenizers, and one's own.

They run on the package `tokenizers`, imported on first use; the `text` extra
installs it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxgen.data.optional import optional, published
from jaxgen.json_files import read_entries, read_json
from jaxgen.messages import reason

START, END = "<|startoftext|>", "<|endoftext|>"
UNKNOWN, PAD, CLASS, SEPARATOR, MASK = (
  *("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]"),
)

# Radford et al. 2021's words: English clitics, letters, single digits, others.
_CLIP_WORDS = (
  r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|"
  r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
_CLIP_PAIRS = {"unk_token": END, "end_of_word_suffix": "</w>"}
_LONGEST = 2**20
_CLIP_SOURCE = "https://huggingface.co/openai/clip-vit-large-patch14"
_BERT_SOURCE = "https://huggingface.co/google-bert/bert-base-uncased"


@dataclasses.dataclass(frozen=True)
class TextTokenizer:
  """Texts -> tokens of one length, the start and the end included.

  Attributes:
    rules: a `tokenizers.Tokenizer` that cuts and pads to that length.
  """

  rules: Any

  @property
  def length(self) -> int:
    """Tokens of every text."""
    return self.rules.truncation["max_length"]

  @property
  def vocab_size(self) -> int:
    """How many tokens there are."""
    return self.rules.get_vocab_size()

  @property
  def end_token(self) -> int:
    """The token that ends every text."""
    return self.rules.encode("").ids[1]

  def __call__(self, texts: str | Sequence[str]) -> np.ndarray:
    """Tokens `[B, length]`, int32, of B texts; `[1, length]` of a single one.

    A longer text is cut; its end token is kept.

    Raises:
      TypeError: if a text is no string.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    for text in texts:
      if not isinstance(text, str):
        raise TypeError(f"A text must be a string, got {text!r}.")
    codes = self.rules.encode_batch([without_surrogates(t) for t in texts])
    tokens = np.array([code.ids for code in codes], np.int32)
    return tokens.reshape(len(texts), self.length)

  def decode(self, tokens: np.ndarray) -> list[str]:
    """Texts of tokens `[B, N]`, in lower case and without their marks."""
    texts = self.rules.decode_batch(np.asarray(tokens).tolist())
    return [text.strip() for text in texts]

  def of_length(self, length: int) -> "TextTokenizer":
    """The same tokenizer for texts of another length.

    Raises:
      ValueError: if length < 2.
    """
    if length < 2:
      raise ValueError(f"A tokenizer needs length >= 2, got {length}.")
    rules = type(self.rules).from_str(self.rules.to_str())
    rules.enable_truncation(length)
    rules.enable_padding(**rules.padding | {"length": length})
    return TextTokenizer(rules)

  def save(self, path: str | Path) -> None:
    """Writes a tokenizer.json, which `load_tokenizer` reads."""
    self.rules.save(str(path))


def clip_tokenizer(
  vocab: str | Path, merges: str | Path, length: int = 77
) -> TextTokenizer:
  """CLIP's byte pairs, as Stable Diffusion 1 uses them.

  Unicode's composed form (NFC), white space collapsed, lower case; words split
  by Radford et al. 2021's pattern into bytes that the merges join; start
  49406, and 49407 both at the end and as padding. So transformers has it.
  OpenAI's own tokenizer first repairs encodings and straightens quotes (ftfy)
  and resolves HTML entities, which this does not.

  Args:
    vocab: the published vocab.json.
    merges: the published merges.txt.
    length: of every text.

  Raises:
    FileNotFoundError: if there is no such file; says where it is published.
    ValueError: if a file is not what it should be, or length < 2.
  """
  library = optional("tokenizers", "text")
  tokens = _read_vocabulary(vocab, _CLIP_SOURCE)
  _require(tokens, (START, END), vocab)
  published(merges, _CLIP_SOURCE)
  model = _parsed(
    lambda: library.models.BPE.from_file(
      str(vocab), str(merges), **_CLIP_PAIRS
    ),
    merges,
  )
  return _numbered(_clip_rules(library, model, length), vocab)


def clip_tokenizer_of(folder: str | Path, length: int = 77) -> TextTokenizer:
  """`clip_tokenizer` of the files in a folder.

  They are vocab.json and merges.txt or, where these are absent, tokenizer.json
  as transformers writes it: its vocabulary and merges are taken, its rules are
  CLIP's.

  Raises:
    FileNotFoundError: if there are none; says where they are published.
    ValueError: if a file is not what it should be, or length < 2.
  """
  files = clip_files(folder)
  if len(files) == 2:
    return clip_tokenizer(*files, length)
  (whole,) = files
  library = optional("tokenizers", "text")
  parts = read_entries(whole).get("model")
  parts = parts if isinstance(parts, dict) else {}
  tokens, merges = parts.get("vocab"), parts.get("merges")
  if not isinstance(tokens, dict) or not isinstance(merges, list):
    raise ValueError(f"{whole} has no vocabulary and merges of byte pairs.")
  _require(tokens, (START, END), whole)

  def byte_pairs():
    pairs = [tuple(m.split(" ") if isinstance(m, str) else m) for m in merges]
    return library.models.BPE(vocab=tokens, merges=pairs, **_CLIP_PAIRS)

  model = _parsed(byte_pairs, whole)
  return _numbered(_clip_rules(library, model, length), whole)


def clip_files(folder: str | Path) -> tuple[Path, ...]:
  """What `clip_tokenizer_of` reads: vocab.json and merges.txt, or one file.

  Raises:
    FileNotFoundError: if there are none; says where they are published.
  """
  pair = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
  whole = Path(folder) / "tokenizer.json"
  if whole.is_file() and not pair[0].is_file():
    return (whole,)
  return tuple(published(path, _CLIP_SOURCE) for path in pair)


def bert_tokenizer(vocab: str | Path, length: int = 77) -> TextTokenizer:
  """BERT's uncased word pieces, as latent diffusion's text models use them.

  Devlin et al. 2019, "BERT", and its published code: lower case, accents
  stripped, words split at white space and punctuation, then the longest pieces
  of the vocabulary; [CLS], [SEP] at the end, [PAD] after it.

  Args:
    vocab: the published vocab.txt, a token a line.
    length: of every text.

  Raises:
    FileNotFoundError: if there is no such file; says where it is published.
    ValueError: if it is not a vocabulary of BERT, or length < 2.
  """
  library = optional("tokenizers", "text")
  path = published(vocab, _BERT_SOURCE)
  try:
    lines = path.read_text(encoding="utf-8").split("\n")
  except UnicodeDecodeError as error:
    raise ValueError(f"{path} is not text in UTF-8: {error}.") from error
  if lines[-1] == "":
    lines.pop()
  tokens = {line.rstrip("\r"): i for i, line in enumerate(lines)}
  marks = (CLASS, SEPARATOR, PAD)
  _require(tokens, (*marks, UNKNOWN), path)
  rules = library.Tokenizer(library.models.WordPiece(tokens, unk_token=UNKNOWN))
  rules.normalizer = library.normalizers.BertNormalizer(lowercase=True)
  rules.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  rules.decoder = library.decoders.WordPiece(prefix="##")
  others = [mark for mark in (UNKNOWN, MASK) if mark in tokens]
  return framed(library, rules, marks, others, length)


def train_word_tokenizer(
  captions: Iterable[str], size: int, length: int = 77
) -> TextTokenizer:
  """Byte pairs learnt from the captions of a data set, without any download.

  Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword
  Units", on bytes: the most frequent pair of neighbours within a word becomes
  a token until there are `size`. Every text has tokens, also of other scripts.
  Text is normalised as CLIP's, the start is 0, the end and padding 1.

  Args:
    captions: the texts to learn from.
    size: of the vocabulary, at least 258 (two marks and the bytes). Few
      captions may give less; see `TextTokenizer.vocab_size`.
    length: of every text.

  Raises:
    ValueError: if size < 258 or length < 2.
  """
  library = optional("tokenizers", "text")
  if size < 258:
    raise ValueError(
      f"train_word_tokenizer needs size >= 258, two marks and the 256 bytes, "
      f"got {size}."
    )
  rules = library.Tokenizer(library.models.BPE())
  normalizers = library.normalizers
  rules.normalizer = normalizers.Sequence(
    [_clip_normalizer(library), normalizers.Strip()]
  )
  rules.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=True)
  rules.decoder = library.decoders.ByteLevel()
  trainer = library.trainers.BpeTrainer(
    vocab_size=size,
    special_tokens=[START, END],
    initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  texts = (without_surrogates(caption) for caption in captions)
  rules.train_from_iterator(texts, trainer)
  return framed(library, rules, (START, END, END), (), length)


def load_tokenizer(path: str | Path) -> TextTokenizer:
  """The tokenizer of a tokenizer.json that `TextTokenizer.save` wrote.

  Raises:
    FileNotFoundError: if there is no such file.
    ValueError: if it is no tokenizer, or one without a fixed length.
  """
  library = optional("tokenizers", "text")
  path = Path(path)
  if not path.is_file():
    raise FileNotFoundError(
      f"There is no tokenizer file {path}: TextTokenizer.save writes one."
    )
  _check_templates(read_entries(path).get("post_processor"), path)
  rules = _parsed(lambda: library.Tokenizer.from_file(str(path)), path)
  if (rules.truncation or {}).get("max_length") is None or (
    (rules.padding or {}).get("length") != rules.truncation["max_length"]
  ):
    raise ValueError(f"{path} does not cut and pad texts to one length.")
  if not 2 <= rules.truncation["max_length"] <= _LONGEST:
    raise ValueError(
      f"{path} cuts texts to {rules.truncation['max_length']} tokens, wanted 2 "
      f"to {_LONGEST:,}."
    )
  tokenizer = _numbered(TextTokenizer(rules), path)
  _parsed(lambda: tokenizer(["a text", ""]), path)
  return tokenizer


def framed(
  library: Any,
  rules: Any,
  marks: tuple[str, str, str],
  others: Sequence[str],
  length: int,
) -> TextTokenizer:
  """Rules that put start and end around a text, and padding after it."""
  if length < 2:
    raise ValueError(f"A tokenizer needs length >= 2, got {length}.")
  start, end, pad = marks
  special = dict.fromkeys((*marks, *others))
  rules.add_special_tokens(list(special))
  rules.post_processor = library.processors.TemplateProcessing(
    single=f"{start} $A {end}",
    special_tokens=[(mark, rules.token_to_id(mark)) for mark in (start, end)],
  )
  rules.enable_truncation(length)
  rules.enable_padding(
    length=length, pad_id=rules.token_to_id(pad), pad_token=pad
  )
  return TextTokenizer(rules)


def _clip_rules(library: Any, model: Any, length: int) -> TextTokenizer:
  rules = library.Tokenizer(model)
  rules.normalizer = _clip_normalizer(library)
  words = library.Regex(_CLIP_WORDS)
  split = library.pre_tokenizers.Split(words, behavior="removed", invert=True)
  as_bytes = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
  rules.pre_tokenizer = library.pre_tokenizers.Sequence([split, as_bytes])
  rules.decoder = library.decoders.Sequence(
    [library.decoders.ByteLevel(), library.decoders.Replace("</w>", " ")]
  )
  return framed(library, rules, (START, END, END), (), length)


def _clip_normalizer(library: Any) -> Any:
  normalizers = library.normalizers
  collapse = normalizers.Replace(library.Regex(r"\s+"), " ")
  return normalizers.Sequence(
    [normalizers.NFC(), collapse, normalizers.Lowercase()]
  )


def without_surrogates(text: str) -> str:
  """The text with halves of UTF-16's pairs, which UTF-8 lacks, as "?"."""
  return text.encode("utf-8", "replace").decode("utf-8")


def _read_vocabulary(path: str | Path, source: str) -> dict[str, int]:
  """Token -> number, of a vocab.json."""
  path = published(path, source)
  tokens = read_json(path)
  if not isinstance(tokens, dict):
    raise ValueError(f"{path} holds no vocabulary, token -> number.")
  return tokens


def _require(
  tokens: dict[str, int], marks: Sequence[str], path: str | Path
) -> None:
  missing = [mark for mark in marks if mark not in tokens]
  if missing:
    raise ValueError(f"{path} lacks the tokens {', '.join(missing)}.")


def _numbered(tokenizer: TextTokenizer, path: str | Path) -> TextTokenizer:
  """The tokenizer; raises ValueError if numbers of tokens exceed 32 bits."""
  if max(tokenizer.rules.get_vocab().values(), default=0) >= 2**31:
    raise ValueError(f"{path} numbers its tokens beyond 2^31.")
  return tokenizer


def _check_templates(processor: Any, path: str | Path) -> None:
  """Raises ValueError where a text is to appear twice.

  The library then combines what was cut off of each with that of every other,
  which takes all memory, and the process with it.
  """
  if not isinstance(processor, dict):
    return
  single, parts = (processor.get(name) for name in ("single", "processors"))
  for part in parts if isinstance(parts, list) else ():
    _check_templates(part, path)
  if isinstance(single, list):
    texts = [x for x in single if isinstance(x, dict) and "Sequence" in x]
    if len(texts) > 1:
      raise ValueError(
        f"{path} puts a text {len(texts)} times into its tokens."
      )


def _parsed(read: Callable[[], Any], path: str | Path) -> Any:
  """What `read` gives; the library's errors have no class of their own.

  Some are no `Exception`: panics of Rust.
  """
  try:
    return read()
  except (KeyboardInterrupt, SystemExit):
    raise
  except BaseException as error:
    raise ValueError(f"Cannot read {path}: {reason(error)}.") from error
