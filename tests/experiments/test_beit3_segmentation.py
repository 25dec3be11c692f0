"""BEiT-3 for segmentation: recipes, backbones to begin with, tiny scripts."""

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeded_weights import seeded_state

from experiments.beit import segment as beits
from experiments.beit import segment_model
from experiments.beit.segment_config import PUBLISHED, smoke
from experiments.beit3 import segment, table_ade20k
from experiments.beit3.config import PRETRAININGS
from experiments.beit3.recipes import RECIPES
from experiments.beit3.segment import FAMILY
from experiments.beit3.segment_config import SEGMENTATIONS, Segment
from experiments.results import Result
from jaxgen import training
from jaxgen.convert.state import write_safetensors
from jaxgen.nn.beit3 import BEIT3S
from jaxgen.nn.beit3_tasks import MaskedDataModel
from jaxgen.training.layer_decay import rate_scales

STORED = np.load(Path(__file__).parents[1] / "data/beit3.npz")
MNIST = SEGMENTATIONS["mnist5k_seg"]
# Of images half as large as the smoke run's crops, with experts of pairs.
PRETRAIN = dataclasses.replace(
  PRETRAININGS["openmoji32"],
  **{"width": 16, "num_layers": 1, "num_heads": 2, "mlp_width": 32},
  **{"image_size": 16, "num_masked": 1, "vocab_size": 40},
)


def params_of(network, *inputs):
  shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
  rng = np.random.default_rng(0)
  draw = lambda p: 0.1 * rng.standard_normal(p.shape).astype(np.float32)
  return jax.tree.map(draw, shapes)


def save(path, experiment, config, params):
  """What a training leaves in its workdir."""
  fields = {"experiment": experiment, **dataclasses.asdict(config)}
  state = training.init_state(params, training.adam(0.1), jax.random.key(0))
  with training.Checkpoints(path / "checkpoints", fields) as checkpoints:
    checkpoints.restore(state)
    checkpoints.save(state)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
  """The workdir of a pre-training, and its trunk's parameters."""
  network = MaskedDataModel(segment.model.make_trunk(PRETRAIN), 8)
  params = params_of(network, jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 4), int))
  path = tmp_path_factory.mktemp("pretraining") / "beit3-tiny"
  save(path, "beit3_pretrain", PRETRAIN, params)
  return path, params["trunk"]


@pytest.fixture(scope="module")
def run(pretrained, one_device, tmp_path_factory):
  """A smoke run that begins with it."""
  workdir = tmp_path_factory.mktemp("run") / "run"
  config = dataclasses.replace(
    MNIST, init=str(pretrained[0]), workdir=str(workdir), smoke=True
  )
  return beits.train(config, FAMILY)


def test_recipes():
  """BEiT's, with BEiT-3's rates; the giant's is of the paper's Table 15."""
  for size, beits_name in (("base", "base_512_mim"), ("large", "large_512")):
    config, recipe = SEGMENTATIONS[size], RECIPES[f"imagenet_{size}"]
    assert (config.lr, config.layer_decay) == (recipe.lr, recipe.layer_decay)
    wanted = dataclasses.asdict(PUBLISHED[beits_name])
    found = dataclasses.asdict(config)
    for name in found.keys() & wanted.keys() - {"name", "lr", "layer_decay"}:
      assert found[name] == wanted[name], name
  giant = SEGMENTATIONS["giant"]
  assert (giant.lr, giant.layer_decay, giant.weight_decay) == (1e-5, 0.95, 0.05)
  assert (giant.steps, giant.warmup_steps) == (80_000, 1500)
  assert (giant.batch_size, giant.drop_path) == (16, 0.5)
  assert giant.crop_size == 896
  for size, trunk in BEIT3S.items():
    found = segment.make_backbone(SEGMENTATIONS[size]).trunk
    # Images alone have no experts of pairs.
    plain = {"drop_path": 0.0, "output_norm": True}
    assert found.clone(**plain) == trunk.clone(pair_layers=0)


def test_the_full_network():
  """Its backbone is the classifier's of 87M without the head, at 512."""
  config = SEGMENTATIONS["base"]
  network = segment_model.make_network(config, FAMILY)
  x = jnp.zeros((1, 512, 512, 3))
  (logits, auxiliary), v = jax.eval_shape(
    network.init_with_output, jax.random.key(0), x
  )
  assert logits.shape == (1, 128, 128, 150)
  assert auxiliary.shape == (1, 32, 32, 150)
  params = v["params"]
  w, m = 768, 3072
  attention = 4 * w * w + 4 * w + 2 * w
  expert = 2 * w * m + m + w + 2 * m
  tokens = 16 * 16 * 3 * w + w + 2 * w + (32 * 32 + 3) * w
  count = sum(leaf.size for leaf in jax.tree.leaves(params["backbone"]))
  assert count == tokens + 12 * (attention + expert + 4 * w)
  rates = rate_scales(params, 12, 0.5)
  trunk = rates["backbone"]["trunk"]
  assert set(jax.tree.leaves(trunk["block_11"])) == {0.5}
  assert set(jax.tree.leaves(trunk["block_0"])) == {0.5**12}
  assert trunk["vision_positions"] == 0.5**13
  assert set(jax.tree.leaves(rates["decode_head"])) == {1}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
  """A classifier's file in the released layout, of images of 32 pixels."""
  shapes = [tuple(s[s > 0].tolist()) for s in STORED["classifier_shapes"]]
  names = STORED["classifier_names"].tolist()
  state = seeded_state(dict(zip(names, shapes, strict=True)), 0)
  state = {name: np.asarray(tensor) for name, tensor in state.items()}
  # As long as the release's; of texts nothing is used.
  lengths = {"text_embed": 64010, "encoder.embed_positions.B": 1024}
  for name, rows in lengths.items():
    state[f"beit3.{name}.weight"] = np.zeros((rows, 32), np.float32)
  path = tmp_path_factory.mktemp("released") / "beit3.safetensors"
  write_safetensors(path, state)
  return path, state


def test_it_begins_with_a_released_file(released):
  """Positions of the same size as they are, of 48 pixels as the original's."""
  path, state = released
  config = Segment(
    **{"patch_size": 8, "width": 32, "num_layers": 2, "num_heads": 4},
    **{"mlp_width": 64, "levels": (0, 0, 1, 1), "stride": 32},
    **{"crop_size": 32, "init": str(path), "init_size": 32},
  )
  table = state["beit3.encoder.embed_positions.A.weight"]
  for size, want in ((32, table), (48, STORED["positions_48"])):
    config = dataclasses.replace(config, crop_size=size)
    backbone = segment.make_backbone(config)
    trunk = segment.pretrained_backbone(config, backbone)["trunk"]
    error = 0 if size == 32 else 1e-5
    np.testing.assert_allclose(
      trunk["vision_positions"], want, rtol=0, atol=error
    )
  kernel = state["beit3.vision_embed.proj.weight"].transpose(2, 3, 1, 0)
  np.testing.assert_array_equal(trunk["patch_embed"]["kernel"], kernel)
  assert not any("text" in name for name in (*trunk, *trunk["block_0"]))
  giant = dataclasses.replace(config, shared_attention=True)
  backbone = segment.make_backbone(giant)
  with pytest.raises(ValueError, match="without shared_attention"):
    segment.pretrained_backbone(giant, backbone)
  wrong = dataclasses.replace(config, init_size=64)
  with pytest.raises(ValueError, match="wrong shapes"):
    segment.pretrained_backbone(wrong, segment.make_backbone(wrong))


def test_it_begins_with_a_run_of_ours(pretrained, tmp_path):
  path, old = pretrained
  config = smoke(dataclasses.replace(MNIST, init=str(path)))
  backbone = segment.make_backbone(config)
  trunk = segment.pretrained_backbone(config, backbone)["trunk"]
  assert trunk["vision_positions"].shape == (4 * 4 + 3, 16)
  block, before = trunk["block_0"], old["block_0"]
  assert set(before) - set(block) == {"expert_pair", "expert_text"}
  jax.tree.map(np.testing.assert_array_equal, block["attn"], before["attn"])
  wide = dataclasses.replace(config, width=32)
  with pytest.raises(ValueError, match="does not fit the network"):
    segment.pretrained_backbone(wide, segment.make_backbone(wide))
  gone = dataclasses.replace(config, init=str(tmp_path / "gone.pth"))
  with pytest.raises(FileNotFoundError):
    segment.pretrained_backbone(gone, backbone)


def test_grey_scenes_have_three_channels():
  batch = next(segment_model.batches(smoke(MNIST)))
  image = batch["image"]
  assert image.shape == (8, 32, 32, 3)
  np.testing.assert_array_equal(image, image[..., :1].repeat(3, -1))
  assert image.std() > 0


def test_a_step():
  """Shapes of a step's loss, with stochastic depth and recomputation."""
  config = dataclasses.replace(smoke(MNIST), drop_path=0.1, remat=True)
  init = lambda key: segment_model.init_state(config, key, key, FAMILY)
  state = jax.eval_shape(init, jax.random.key(0))
  batch = {
    "image": jnp.zeros((2, 32, 32, 3)),
    "segmentation": jnp.zeros((2, 32, 32), jnp.uint8),
  }
  network = segment_model.make_network(config, FAMILY)
  loss_fn = segment_model.make_loss(config, network)
  found = jax.eval_shape(
    jax.grad(lambda *args: loss_fn(*args)[0]),
    *(state.params, jax.random.key(0), batch, state.memory),
  )
  shapes = lambda tree: jax.tree.map(jnp.shape, tree)
  assert shapes(found) == shapes(state.params)


@pytest.mark.slow
def test_a_run_leaves_its_files(run, pretrained):
  lines = (run / "metrics.jsonl").read_text().splitlines()
  rows = [json.loads(line) for line in lines]
  assert [row["step"] for row in rows] == [1, 2, 3, 4]
  # Eleven classes, about as likely at first.
  assert rows[0]["main"] == pytest.approx(np.log(11), rel=0.3)
  scores = json.loads((run / "segmentations.json").read_text())
  assert 0 <= scores["mean_iou"] <= scores["mean_accuracy"] <= 1
  assert scores["protocol"].startswith(
    "4 scenes of mnist5k:test; windows of 32"
  )
  assert scores["protocol"].endswith("begun with beit3-tiny")
  found = segment_model.load(str(run), FAMILY)
  assert found.config == smoke(found.config)
  # The smallest rate is decay^2 of 2e-3: near what it began with.
  kernel = found.variables["params"]["backbone"]["trunk"]["patch_embed"]
  before = pretrained[1]["patch_embed"]["kernel"]
  difference = np.abs(kernel["kernel"] - before).max()
  assert 0 < difference < 4 * 2e-3


@pytest.mark.slow
def test_the_table(run, tmp_path):
  table_ade20k.main([str(run)], multi=True, n=2, out=str(tmp_path))
  text = (tmp_path / "table.md").read_text()
  giant = "giant (paper: ViT-Adapter, Mask2Former)"
  assert f"| {giant} | 62.0 | 62.8 | not run | not run |" in text
  (path,) = tmp_path.glob("*.json")
  result = Result(**json.loads(path.read_text()))
  assert result.row == "small, pre-trained"
  assert set(result.ours) == {"mIoU SS", "mIoU MS"}
  assert "(scaled-down replica)" in text


def test_mistakes_are_one_sentence(pretrained, tmp_path):
  with pytest.raises(ValueError, match="'beit3_pretrain', not beit3_segment"):
    segment_model.load(str(pretrained[0]), FAMILY)
  with pytest.raises(FileNotFoundError, match="is no workdir of beit3_segment"):
    segment_model.load("base:beit3.pth", FAMILY)
  again = smoke(dataclasses.replace(MNIST, init=str(tmp_path)))
  save(tmp_path, "beit3_segment", again, {"any": np.zeros(1)})
  with pytest.raises(ValueError, match="'beit3_segment', not a pre-training"):
    segment.pretrained_backbone(again, segment.make_backbone(again))
  with pytest.raises(ValueError, match="'beit3_segment', not beit_segment"):
    segment_model.load(str(tmp_path))
  with pytest.raises(ValueError, match="two patches of 14, got 512"):
    dataclasses.replace(SEGMENTATIONS["giant"], crop_size=512)
  with pytest.raises(ValueError, match=r"levels must lie in \[0, 12\)"):
    Segment(levels=(3, 5, 7, 12))
