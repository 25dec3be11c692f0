"""Latent diffusion's configurations, losses and conditions."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_ldm import TINY, first_stage_params, images, toy

from experiments.ldm import conditions, first_stage, layout, model, sample
from experiments.ldm.configs import CONFIGS
from jaxgen import data
from jaxgen.nn.conditioners import CONDITIONERS
from jaxgen.nn.ldm_bert import LDM_BERTS, LdmBert
from jaxgen.nn.ldm_unet import LDM_NETWORKS

pytestmark = pytest.mark.usefixtures("one_device")

RELEASED = json.loads(
  (Path(__file__).parents[1] / "data/ldm_configs.json").read_text()
)
NETWORKS = {
  "celebahq256": "celeba256",
  "churches256": "lsun_churches256",
  "bedrooms256": "lsun_beds256",
  "cin256": "cin256_v2",
  "cin256_f8": "cin256",
  "txt2img": "txt2img_1p4b",
  "super_resolution": "bsr_sr",
  "layout2img": "layout2img_openimages256",
}


@pytest.fixture(scope="module")
def frozen():
  return first_stage_params()


@pytest.mark.parametrize("name", RELEASED)
def test_configurations_are_the_released_ones(name):
  ours, theirs = CONFIGS[name], RELEASED[name]
  for field, value in {
    "beta_start": theirs["linear_start"],
    "beta_end": theirs["linear_end"],
    "T": theirs["timesteps"],
    "loss": theirs["loss_type"],
    "latent_size": theirs["image_size"],
    "latent_channels": theirs["channels"],
    "latent_scale": theirs["scale_factor"],
    "scale_by_std": theirs["scale_by_std"],
    "warmup_steps": theirs["warm_up_steps"],
  }.items():
    assert getattr(ours, field) == value, field
  if theirs["batch_size"]:
    assert ours.batch_size == theirs["batch_size"]
    scaled = theirs["base_learning_rate"] * ours.batch_size
    # The release says so of Churches: --scale_lr False.
    rate = 5e-5 if name == "churches256" else scaled
    assert ours.lr == pytest.approx(rate)
  autoencoder = first_stage.AUTOENCODERS[ours.autoencoder]
  first_stage.check(ours, autoencoder)
  widths, codes = theirs["autoencoder"]["ch_mult"], theirs["codes"]
  assert autoencoder.channel_mult == tuple(widths)
  assert getattr(autoencoder, "num_codes", 0) == codes
  assert autoencoder.mid_attention == (theirs["attention"] == "vanilla")
  unet, network = model.make_unet(ours), theirs["unet"]
  wanted = LDM_NETWORKS[NETWORKS.get(name, name)]
  if unet.num_head_channels:  # takes the place of num_heads
    wanted = wanted.clone(num_heads=unet.num_heads)
  assert unet == wanted.clone(dtype=unet.dtype)
  assert unet.channel_mult == tuple(network["channel_mult"])
  assert unet.context_dim == network.get("context_dim")
  channels = unet.out_channels + unet.concat_channels
  assert channels == network["in_channels"]


def test_conditioners_are_the_released_ones():
  made = {
    name: conditions.make_conditioner(config)
    for name, config in CONFIGS.items()
  }
  assert made["celebahq256"] is made["inpainting_big"] is None
  assert made["cin256"] == CONDITIONERS["cin256_v2"]
  assert made["cin256_f8"] == CONDITIONERS["cin256"]
  name = "semantic_synthesis256"
  assert made[name] == CONDITIONERS[name]
  for name, bert in (
    ("txt2img", LDM_BERTS["txt2img_f8_large"]),
    ("text2img256", LDM_BERTS["text2img256"]),
    ("layout2img", LdmBert(8192, 512, 16, max_length=92)),
  ):
    assert made[name] == bert.clone(dtype=made[name].dtype)
    theirs = RELEASED[name]["conditioner"]
    assert (bert.width, bert.num_layers, bert.max_length) == (
      theirs["n_embed"],
      theirs["n_layer"],
      theirs.get("max_seq_len", 77),
    )


@pytest.mark.parametrize(
  ("name", "lr", "batch_size", "steps"),
  [
    ("celebahq256", 9.6e-5, 48, 410_000),
    ("ffhq256", 8.4e-5, 42, 635_000),
    ("churches256", 5e-5, 96, 500_000),
    ("bedrooms256", 9.6e-5, 48, 1_900_000),
    ("txt2img", 1e-4, 680, 390_000),
    ("cin256", 1e-4, 1200, 178_000),
    ("super_resolution", 6.4e-5, 64, 860_000),
    ("layout2img", 4.8e-5, 24, 4_400_000),
  ],
)
def test_hyper_parameters_are_the_papers(name, lr, batch_size, steps):
  """Tables 12 and 15."""
  config = CONFIGS[name]
  assert (config.batch_size, config.steps) == (batch_size, steps)
  assert config.lr == pytest.approx(lr)


def test_the_layout_model_has_the_papers_size():
  """306M in Table 15, with logits that nothing uses; the U-Net is tested."""
  shapes = jax.eval_shape(
    lambda key: conditions.init_conditioner(CONFIGS["layout2img"], key),
    jax.random.key(0),
  )
  count = sum(x.size for x in jax.tree.leaves(shapes))
  logits = (512 + 1) * 8192
  assert count + 246_277_379 + logits == pytest.approx(306e6, rel=0.005)


def test_betas_are_the_released_ones():
  """beta = (0.0015^.5 + i / 999 (0.0195^.5 - 0.0015^.5))^2, in float64."""
  process = model.make_process(CONFIGS["cin256"])
  roots = np.linspace(0.0015**0.5, 0.0195**0.5, 1000)
  wanted = np.cumprod(1 - roots**2)
  found = process.alpha(jnp.arange(1, 1001)) ** 2
  np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_losses_of_eps():
  """A network that is off by a constant: its square, its absolute value."""
  process = model.make_process(CONFIGS["cin256"])
  z = jnp.zeros((64, 4, 4, 3))  # so that z_t = sigma_t eps
  off = lambda z_t, t: z_t / process.sigma(t)[:, None, None, None] - 3.0
  for norm, wanted in (("l2", 9.0), ("l1", 3.0)):
    found = model.eps_loss(process, off, jax.random.key(0), z, norm)
    assert found == pytest.approx(wanted, rel=1e-4)


def test_conditions_are_hidden_at_their_rate():
  """10% of 4000, within four standard deviations; others stay."""
  labels = jnp.arange(4000) % 10
  found = conditions.hide(jax.random.key(0), 0.1, labels, 10)
  share = (found == 10).mean()
  assert abs(share - 0.1) < 4 * (0.1 * 0.9 / 4000) ** 0.5
  assert (found == labels)[found != 10].all()
  tokens = jnp.broadcast_to(labels[:, None], (4000, 5))
  found = conditions.hide(jax.random.key(0), 0.1, tokens, np.arange(50, 55))
  hidden = found[:, 0] == 50
  assert hidden.mean() == share
  assert (found[hidden] == np.arange(50, 55)[None]).all()
  assert (found[~hidden] == tokens[~hidden]).all()


def test_boxes_are_the_original_tokens():
  """The example in the original's source: of 16 tokens, 6 and 15."""
  boxes = [(3, 2 / 3, 1 / 3, 1.0, 1.0), (1, 0.0, 0.0, 0.2, 0.2)]
  found = layout.layout_tokens(boxes, 11, 16, (0.5, 0.0, 1.0, 1.0))
  # The second box is out of sight; the crop goes from (0.5, 0) to (1, 1).
  assert found.tolist() == [3, 6, 15, 15, 15, 15, 15, 15, 15, 2, 15]
  # 90 x 90 positions of 8192 tokens.
  found = layout.layout_tokens([(7, 0.25, 0.5, 0.75, 1.0)])
  assert found[:6].tolist() == [7, 44 * 90 + 22, 89 * 90 + 67, *[8191] * 3]
  assert found[-2:].tolist() == [0, 8099]
  assert found.shape == (92,)
  with pytest.raises(ValueError, match="a box is"):
    layout.layout_tokens([(0, 0.5, 0.0, 0.2, 1.0)])
  with pytest.raises(ValueError, match=r"must lie in \[0, 8191\)"):
    layout.layout_tokens([(8191, 0.0, 0.0, 1.0, 1.0)])


def test_boxes_are_the_tokens_of_the_original_code():
  path = Path(__file__).parents[1] / "data/layout_tokens.json"
  for case in json.loads(path.read_text()):
    found = layout.layout_tokens(case["boxes"], crop=case["crop"])
    assert found.tolist() == case["tokens"]


def test_boxes_of_a_data_set():
  example = {
    "image": np.zeros((100, 200, 3), np.uint8),
    "bobjects": {
      "label": [5, 2],
      "bbox": [[0.0, 0.1, 0.2, 0.3], [0.5, 0.5, 1.0, 1.0]],
      "is_group_of": [0, 1],
      "is_depiction": [-1, 1],
    },
  }
  found = layout.boxes_of(example, 601)
  assert [box[0] for box in found] == [5, 2 + 601 * (1 + 4)]
  np.testing.assert_allclose(found[0][1:], (0.1, 0.0, 0.3, 0.2), atol=1e-7)
  assert layout.central_square(100, 200) == (0.25, 0.0, 0.75, 1.0)
  with pytest.raises(ValueError, match="needs a data set with boxes"):
    layout.boxes_of({"image": 0}, 601)


def test_images_as_conditions(frozen):
  """What is appended to x: the release's inpainting and super-resolution."""
  config = toy("mask", cond_dropout=0.0, cache_latents=False)
  x = jnp.asarray(data.to_unit(images(2)))
  holes = jnp.zeros((2, 8, 8), bool).at[:, 1:5, :3].set(True)
  told = conditions.with_hole(x, holes)
  assert (told[..., 3] == np.where(holes, 1, -1)).all()
  _, concat = conditions.encode(config, TINY, {"first_stage": frozen}, told)
  seen = jnp.where(holes[..., None], -1.0, x)
  mean = first_stage.encode(TINY, frozen, seen)[..., :3]
  np.testing.assert_allclose(concat[..., :3], mean, atol=1e-5)
  # Nearest pixels: rows 0, 2, 4, 6; of them 2 and 4 lie in the hole.
  wanted = np.array([[-1, -1], [1, 1], [1, 1], [-1, -1]])
  np.testing.assert_array_equal(concat[0, :, :2, 3], wanted)
  assert (concat[..., 2:, 3] == -1).all()
  low_res = toy("low_res", cond_dropout=0.0, cache_latents=False)
  smaller = conditions.reduce(x, 4)
  assert conditions.encode(low_res, TINY, {}, smaller) == (None, smaller)
  kept = sample.keep_outside(np.zeros((2, 8, 8, 3), np.uint8), told)
  np.testing.assert_array_equal(kept, np.where(holes[..., None], 0, images(2)))


def test_holes_are_of_all_sizes():
  holes = conditions.draw_holes(jax.random.key(0), (200, 32, 32))
  share = holes.mean((1, 2))
  assert 0 < share.min() < 0.02
  assert 0.3 < share.max() < 0.8


@pytest.mark.parametrize(
  ("condition", "changes"),
  [
    ("mask", {"concat_channels": 4, "loss": "l1"}),
    ("low_res", {"concat_channels": 3, "low_res_size": 4}),
    ("segmentation", {"concat_channels": 3, "num_classes": 5}),
  ],
)
def test_conditions_beside_the_latents_fit(condition, changes, frozen):
  """Shapes alone: nothing is compiled."""
  config = toy(
    condition,
    cond_dropout=0.0,
    context_dim=None,
    cache_latents=False,
    **changes,
  )
  networks = model.make_networks(config, TINY)
  params = jax.eval_shape(
    lambda key: model.init_params(config, networks.unet, key),
    jax.random.key(0),
  )
  memory = model.init_memory(config, frozen)
  batch = {
    "image": jnp.zeros((2, 8, 8, 3)),
    "segmentation": jnp.zeros((2, 8, 8), jnp.int32),
  }
  loss = model.make_loss(config, model.make_process(config), networks, None)
  value, _, after = jax.eval_shape(
    loss, params, jax.random.key(0), batch, memory
  )
  assert value.shape == after["scale"].shape == ()
