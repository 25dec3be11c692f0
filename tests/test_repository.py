"""Promises about the source itself: sizes, docstrings, imports, README."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
  path
  for folder in ("jaxgen", "experiments", "benchmarks")
  for path in (ROOT / folder).rglob("*.py")
)
IDS = [str(path.relative_to(ROOT)) for path in SOURCES]

# Longer than the rule, with the reason.
LONG_FILES: dict[str, str] = {}
LONG_FUNCTIONS: dict[str, str] = {}
EQUATIONS = re.compile(r"Eq\.|section|App\.|Algorithm|[12]\d{3}|DDPM|DDIM")


def functions(tree):
  kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
  return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def length(node):
  """Lines of code: the docstring is not counted."""
  documented = ast.get_docstring(node, clean=False) is not None
  start = node.body[0].end_lineno + 1 if documented else node.lineno
  return node.end_lineno - start + 1


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_files_and_functions_stay_small(path):
  text = path.read_text()
  name = str(path.relative_to(ROOT))
  assert text.count("\n") < 400 or name in LONG_FILES
  for node in functions(ast.parse(text)):
    limit = 90 if node.name == "__call__" else 60
    assert length(node) <= limit or f"{name}:{node.name}" in LONG_FUNCTIONS, (
      f"{name}:{node.name} has {length(node)} lines"
    )


def test_public_arguments_are_annotated():
  missing = []
  for path in SOURCES:
    if path.is_relative_to(ROOT / "jaxgen"):
      for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
          arguments = node.args.posonlyargs + node.args.args
          arguments += node.args.kwonlyargs
          if node.returns is None or any(
            a.annotation is None for a in arguments
          ):
            missing.append(f"{path.name}:{node.name}")
  assert not missing


def test_formulas_cite_their_paper():
  """Every public function that is a paper's formula says which."""
  folder = ROOT / "jaxgen/diffusion"
  for name in (
    "schedules",
    "gaussian",
    "samplers",
    "losses",
    "reverse",
    "sde_solvers",
    "score_losses",
  ):
    for node in ast.parse((folder / f"{name}.py").read_text()).body:
      if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
        if node.name in (
          "normal_like",
          "snr",
          "prior",
          "no_memory",
          "check_unit",
        ):
          continue  # definitions, not results
        if node.name in ("transition", "x_0_loss"):
          continue  # derived in place
        doc = ast.get_docstring(node)
        assert EQUATIONS.search(doc), f"{name}.{node.name} cites nothing"


HEAVY = (
  "tensorflow",
  "tensorflow_datasets",
  "grain",
  "PIL",
  "safetensors",
  "matplotlib",
  "tyro",
  "torch",
  "diffrax",
  "tokenizers",
  "transformers",
)


def run_python(code):
  return subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=False,
  )


def test_the_core_imports_without_the_extras():
  """With the heavy packages hidden, as in a bare `pip install jaxgen`."""
  code = f"""
import sys
for name in {HEAVY!r}:
  sys.modules[name] = None
import jaxgen, jaxgen.diffusion, jaxgen.training, jaxgen.data
import jaxgen.nn.ddpm_unet, jaxgen.convert.ddpm
import jaxgen.metrics, jaxgen.convert.torch_files, jaxgen.convert.openai
import jaxgen.convert.score_sde, jaxgen.convert.ncsn
import jaxgen.nn.clip_text, jaxgen.convert.clip, jaxgen.data.tokenizers
import jaxgen.nn.ldm_bert, jaxgen.convert.ldm_bert
import jaxgen.convert.sd1, jaxgen.convert.sd1_folder
import jaxgen.nn.autoencoder, jaxgen.nn.tiling, jaxgen.convert.first_stage
import jaxgen.training.autoencoder_losses, jaxgen.metrics.reconstruction
import jaxgen.convert.first_stage_folders, jaxgen.convert.ldm_unet
import jaxgen.nn.beit, jaxgen.masked, jaxgen.convert.beit
import jaxgen.convert.beit_files
import jaxgen.nn.dvae, jaxgen.convert.dalle_dvae
import jaxgen.nn.beit3_tasks, jaxgen.convert.beit3, jaxgen.data.sentencepiece
import jaxgen.nn.discrete_vae, jaxgen.convert.discrete_vae
import jaxgen.data.views, jaxgen.training.mixing
import jaxgen.nn.segmentation, jaxgen.convert.beit_segmentation
import jaxgen.data.scenes, jaxgen.data.segmentation, jaxgen.data.vqa
import jaxgen.metrics.captions, jaxgen.data.described
import jaxgen.training.segmentation_losses
import jaxgen.nn.vqkd, jaxgen.convert.vqkd, jaxgen.convert.clip_vision
import jaxgen.nn.dino, jaxgen.convert.dino
import jaxgen.json_files, jaxgen.zip_files, jaxgen.messages
try:
  jaxgen.data.load("mnist5k")
except ImportError as error:
  print(error)
"""
  done = run_python(code)
  assert done.returncode == 0, done.stderr
  assert "jaxgen[data]" in done.stdout


def test_the_readme_snippet_runs_as_printed():
  text = (ROOT / "README.md").read_text()
  snippet = re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)
  assert snippet.count("\n") <= 31
  done = run_python(snippet)
  assert done.returncode == 0, done.stderr
  assert done.stdout


def test_links_in_documents_exist():
  for document in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
      if not target.startswith("http"):
        assert (document.parent / target).exists(), f"{document.name}: {target}"
