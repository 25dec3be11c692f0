"""Text encoders and tokenizers against transformers and latent diffusion.

transformers runs live, with random weights; latent diffusion's outputs are
stored (tests/data/PROVENANCE.md).
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_openai import quick_jit, random_state
from small_vocabularies import write_bert_file, write_clip_files

from jaxgen.convert import clip, ldm_bert
from jaxgen.data.tokenizers import (
  bert_tokenizer,
  clip_tokenizer,
  clip_tokenizer_of,
)
from jaxgen.nn.clip_text import CLIP_TEXTS
from jaxgen.nn.ldm_bert import LdmBert

STORED = np.load(Path(__file__).parents[1] / "data/ldm_bert.npz")
TEXTS = [
  *("", " ", "the cat and the cat's hat!!", "  A\t\nB  ", "don't I'LL we've"),
  *(
    "Café cafe\u0301",
    "日本語 1234",
    "👩‍👩‍👧 🏳️‍🌈",
    "İstanbul ß ſ ẞ",
    "ﬁ Ⅷ ½ ٣٤",
  ),
  *("<|endoftext|> x", "<|startoftext|>hi<|endoftext|>", "<|ENDOFTEXT|>"),
  *(
    "\u00a0\u3000x\u200b\u2028y\ufeff",
    "</w>",
    "\x00\x01\x7f\x85",
    "..--!?'''s",
  ),
  *("a" * 200, "x " * 100, "the " * 75, "the " * 76, "e\u0301" * 90),
]


def relative_error(a, b):
  return np.linalg.norm(a - b) / np.linalg.norm(b)


def randomize(model):
  """Random weights in place of the initial ones."""
  import torch

  shapes = {k: v.shape for k, v in model.state_dict().items()}
  state = random_state(shapes)
  model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()})
  return model.eval()


def their_clip(**options):
  """transformers' network with random weights."""
  transformers = pytest.importorskip("transformers")
  config = transformers.CLIPTextConfig(**options)
  return randomize(transformers.CLIPTextModel(config))


def run_torch(model, tokens):
  import torch

  with torch.no_grad():
    return model(torch.from_numpy(tokens), output_hidden_states=True)


SMALL = {
  "vocab_size": 100,
  "hidden_size": 48,
  "intermediate_size": 80,
  "num_hidden_layers": 3,
  "num_attention_heads": 4,
  "max_position_embeddings": 11,
  "bos_token_id": 98,
  "eos_token_id": 99,
}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_clip_equals_transformers(tmp_path, activation):
  model = their_clip(**SMALL, hidden_act=activation)
  model.save_pretrained(tmp_path)
  network, params = clip.load(tmp_path)
  assert network.activation == activation
  tokens = np.random.RandomState(0).randint(0, 98, (3, 11))
  tokens[0, 5:] = 99
  tokens[1, 9:] = 99
  ours = quick_jit(network.apply)({"params": params}, jnp.asarray(tokens))
  theirs = run_torch(model, tokens)
  assert relative_error(ours.hidden, theirs.last_hidden_state.numpy()) <= 1e-5
  assert relative_error(ours.pooled, theirs.pooler_output.numpy()) <= 1e-5

  # Without its last block it gives the hidden states before it, normalised.
  import torch

  with torch.no_grad():
    last_but_one = model.final_layer_norm(theirs.hidden_states[-2]).numpy()
  shorter = network.clone(num_layers=2)
  less = {k: v for k, v in params.items() if k != "block_2"}
  ours = quick_jit(shorter.apply)({"params": less}, jnp.asarray(tokens))
  assert relative_error(ours.hidden, last_but_one) <= 1e-5


def test_transformers_loads_what_we_save(tmp_path):
  model = their_clip(**SMALL)
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  model.save_pretrained(tmp_path / "theirs")
  network, params = clip.load(tmp_path / "theirs")
  clip.save(tmp_path / "ours", params, network)
  again, report = type(model).from_pretrained(
    tmp_path / "ours", output_loading_info=True
  )
  assert not any(report.values())
  assert again.config.eos_token_id == 99
  for name, tensor in again.state_dict().items():
    np.testing.assert_array_equal(tensor.numpy(), state[name])
  assert clip.configured(tmp_path / "ours/config.json") == network


@pytest.mark.slow
def test_vit_l_14_equals_transformers():
  network = CLIP_TEXTS["vit_l_14"]
  model = their_clip(
    hidden_size=768, intermediate_size=3072, num_attention_heads=12
  )
  state = {k: v.numpy() for k, v in model.state_dict().items()}
  params = clip.from_transformers(state, network)
  tokens = np.random.RandomState(0).randint(0, 49_406, (2, 77))
  tokens[:, 0], tokens[0, 20:], tokens[1, 76] = 49_406, 49_407, 49_407
  ours = jax.jit(network.apply)({"params": params}, jnp.asarray(tokens))
  theirs = run_torch(model, tokens)
  errors = (
    relative_error(ours.hidden, theirs.last_hidden_state.numpy()),
    relative_error(ours.pooled, theirs.pooler_output.numpy()),
  )
  print(errors)
  assert max(errors) <= 1e-5


def test_ldm_bert_and_its_gradients_equal_the_original():
  pairs = (line.split(" ", 1) for line in STORED["shapes"])
  shapes = {
    k: tuple(int(n) for n in shape.strip("(,)").split(",") if n)
    for k, shape in pairs
  }
  network = LdmBert(40, 48, 2, max_length=11)
  params = ldm_bert.from_original(random_state(shapes), network)

  def loss(params):
    out = network.apply({"params": params}, jnp.asarray(STORED["tokens"]))
    return jnp.mean((out - STORED["target"]) ** 2), out

  grads, out = quick_jit(jax.grad(loss, has_aux=True))(params)
  assert relative_error(out, STORED["out"]) <= 1e-5
  grads = ldm_bert.to_original(grads)
  assert sorted(grads) == STORED["gradient_names"].tolist()
  lines = random_state({k: g.shape for k, g in grads.items()}, seed=2)
  for k, (norm, product) in zip(
    sorted(grads), STORED["gradients"], strict=True
  ):
    assert abs(np.linalg.norm(grads[k]) - norm) <= 1e-4 * norm, k
    error = abs(np.vdot(grads[k], lines[k]) - product)
    assert error <= 1e-4 * norm * np.linalg.norm(lines[k]), k


def test_clip_tokens_equal_transformers(tmp_path):
  transformers = pytest.importorskip("transformers")
  vocab, merges = map(str, write_clip_files(tmp_path))
  theirs = transformers.CLIPTokenizer(vocab, merges)
  ours = clip_tokenizer(vocab, merges)
  want = theirs(TEXTS, padding="max_length", truncation=True, max_length=77)
  np.testing.assert_array_equal(ours(TEXTS), want["input_ids"])
  assert len(set(map(bytes, ours(TEXTS)))) > 15


def test_bert_tokens_equal_transformers(tmp_path):
  transformers = pytest.importorskip("transformers")
  path = write_bert_file(tmp_path)
  theirs = transformers.BertTokenizer(str(path))
  ours = bert_tokenizer(path)
  texts = [*TEXTS, "[MASK] the [SEP] [cls]", "a" * 101, "hats unhat Hat,hat"]
  want = theirs(texts, padding="max_length", truncation=True, max_length=77)
  np.testing.assert_array_equal(ours(texts), want["input_ids"])


def test_clip_tokens_of_a_folder_that_transformers_saved(tmp_path):
  """It has vocabulary and merges in one file."""
  transformers = pytest.importorskip("transformers")
  vocab, merges = map(str, write_clip_files(tmp_path))
  theirs = transformers.CLIPTokenizer(vocab, merges)
  theirs.save_pretrained(tmp_path / "saved")
  (tmp_path / "saved" / "vocab.json").unlink(missing_ok=True)
  ours = clip_tokenizer_of(tmp_path / "saved")
  want = theirs(TEXTS, padding="max_length", truncation=True, max_length=77)
  np.testing.assert_array_equal(ours(TEXTS), want["input_ids"])
  (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": []}}')
  Path(vocab).unlink()
  with pytest.raises(ValueError, match="no vocabulary and merges"):
    clip_tokenizer_of(tmp_path)
