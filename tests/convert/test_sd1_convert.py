"""Whole files and folders of Stable Diffusion 1, at reduced width."""

import json

import jax
import numpy as np
import pytest
from random_openai import random_state
from small_vocabularies import write_clip_files

from jaxgen.convert import first_stage_folders, ldm_unet, sd1, sd1_folder
from jaxgen.convert.state import read_safetensors
from jaxgen.convert.torch_files import read_state
from jaxgen.diffusion.gaussian import posterior
from jaxgen.diffusion.processes import DiscreteProcess
from jaxgen.diffusion.schedules import linear_betas, scaled_linear_betas
from jaxgen.nn.autoencoder import AutoencoderKL
from jaxgen.nn.clip_text import ClipText
from jaxgen.nn.ldm_unet import UNet

TINY = sd1.Networks(
  UNet(32, (1, 2), 1, attention_resolutions=(1,), num_heads=2, context_dim=16),
  AutoencoderKL(channels=32, channel_mult=(1, 2), num_res_blocks=1),
  ClipText(525, 16, 2, 2, 32, max_length=7, end_token=524),
)
IDS = "cond_stage_model.transformer.text_model.embeddings.position_ids"


def zero_params(networks):
  """Parameters that take no memory."""
  x = np.zeros((1, 8, 8, networks.first_stage.out_channels), np.float32)
  z = np.zeros((1, 8, 8, networks.unet.out_channels), np.float32)
  context = np.zeros((1, 1, networks.unet.context_dim), np.float32)
  tokens = np.zeros((1, 1), np.int32)
  key = jax.random.key(0)
  trees = (
    jax.eval_shape(networks.unet.init, key, z, np.zeros(1), context),
    jax.eval_shape(networks.first_stage.init, key, x),
    jax.eval_shape(networks.text_encoder.init, key, tokens),
  )
  zeros = lambda leaf: np.broadcast_to(np.float32(0), leaf.shape)
  return sd1.Params(*(jax.tree.map(zeros, tree["params"]) for tree in trees))


def random_tensors(seed=0):
  names = sd1.to_original(zero_params(TINY), TINY)
  return random_state({k: x.shape for k, x in names.items()}, seed)


@pytest.fixture(scope="module")
def state():
  return random_tensors()


@pytest.fixture(scope="module")
def averages():
  return {
    ldm_unet.ema_name(k): x
    for k, x in random_tensors(seed=1).items()
    if k.startswith(ldm_unet.PREFIX)
  }


@pytest.fixture(scope="module")
def params(state):
  return sd1.from_original(state, TINY)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_full_size_names():
  """The numbers of tensors of the released files.

  mlcommons/training#807 lists 686 of the U-Net; wl-zhao/VPD#61, of
  v1-5-pruned-emaonly.ckpt, 199 beside U-Net and autoencoder: 196 of the text
  encoder, its position_ids, and the two counters of the averages.
  """
  names = sd1.to_original(zero_params(sd1.SD1))
  count = lambda prefix: sum(name.startswith(prefix) for name in names)
  assert count("model.diffusion_model.") == 686
  assert count("cond_stage_model.transformer.text_model.") == 199 - 1 - 2
  assert len(names) == 686 + 196 + count("first_stage_model.")
  key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k"
  assert names[f"{key}.weight"].shape == (640, 768)
  averages = {ldm_unet.ema_name(k) for k in names if k.startswith("model.")}
  assert len(averages) == 686


def test_every_tensor_goes_both_ways(state, params):
  assert_equal(sd1.to_original(params, TINY), state)


def test_a_half_precision_file_with_all_that_may_be_beside(tmp_path, state):
  torch = pytest.importorskip("torch")
  betas = scaled_linear_betas()
  extra = {
    "model_ema.decay": np.array(0.9999),
    "model_ema.num_updates": np.array(470_000),
    IDS: np.arange(7)[None],
    "betas": betas.astype("f2"),
    "alphas_cumprod": np.cumprod(1 - betas).astype("f2"),
  }
  half = {k: x.astype("f2") for k, x in state.items()}
  tensors = {k: torch.from_numpy(x) for k, x in (half | extra).items()}
  path = tmp_path / "model.ckpt"
  torch.save({"state_dict": tensors, "global_step": 470_000}, path)
  loaded = sd1.to_original(sd1.load(path, TINY), TINY)
  assert_equal(loaded, {k: x.astype("f4") for k, x in half.items()})


def test_save(tmp_path, state, params):
  path = tmp_path / "model.safetensors"
  sd1.save(path, params, TINY)
  assert_equal(read_safetensors(path), state)
  assert_equal(sd1.load(path, TINY), params)
  with pytest.raises(ValueError, match=r"writes \.safetensors files, .*ckpt"):
    sd1.save(tmp_path / "model.ckpt", params, TINY)


def test_averages(state, params, averages):
  both = state | averages
  want = ldm_unet.from_original(ldm_unet.unet_state(both, ema=True), TINY.unet)
  assert_equal(sd1.from_original(both, TINY).unet, want)
  assert_equal(sd1.from_original(both, TINY, "ignore"), params)
  kernel = lambda unet: unet["conv_in"]["kernel"]
  assert not np.allclose(kernel(want), kernel(params.unet))

  with pytest.raises(
    ValueError, match=r"no averaged weights .* 'require' want"
  ):
    sd1.from_original(state, TINY, "require")
  with pytest.raises(ValueError, match=r"must be 'prefer', .* got 'yes'"):
    sd1.from_original(state, TINY, "yes")
  less = dict(both)
  del less["model_ema.diffusion_modelout2bias"]
  with pytest.raises(ValueError, match=r"averages of \d+ of the \d+ tensors"):
    sd1.from_original(less, TINY)


def test_tables_of_the_noise_schedule(state, params):
  """Right ones, taken from the process that samples, are accepted."""
  process = DiscreteProcess.from_betas(scaled_linear_betas())
  t = np.arange(1, 1001)
  alpha, sigma = (np.float64(f(t)) for f in (process.alpha, process.sigma))
  one, zero = np.ones((1000, 1), np.float32), np.zeros((1000, 1), np.float32)
  of_x_0, variance = posterior(process, zero, one, t, t - 1)
  of_x_t, _ = posterior(process, one, zero, t, t - 1)
  variance = np.float64(variance) * one
  tables = {
    "alphas_cumprod_prev": np.float64(process.alpha(t - 1)) ** 2,
    "sqrt_alphas_cumprod": alpha,
    "sqrt_one_minus_alphas_cumprod": sigma,
    "log_one_minus_alphas_cumprod": 2 * np.log(sigma),
    "sqrt_recip_alphas_cumprod": 1 / alpha,
    "sqrt_recipm1_alphas_cumprod": sigma / alpha,
    "posterior_mean_coef1": of_x_0[:, 0],
    "posterior_mean_coef2": of_x_t[:, 0],
    "posterior_variance": variance[:, 0],
    "posterior_log_variance_clipped": np.log(variance.clip(1e-20))[:, 0],
    "logvar": np.zeros(1000),
    "scale_factor": np.array(0.18215),
  }
  tables = {name: np.float32(x) for name, x in tables.items()}
  assert_equal(sd1.from_original(state | tables, TINY), params)
  other = np.float32(linear_betas())
  for name, wrong in (
    ("betas", other),
    ("alphas_cumprod", np.cumprod(1 - other)),
    ("sqrt_alphas_cumprod", tables["sqrt_alphas_cumprod"][:500]),
    ("posterior_mean_coef1", tables["posterior_mean_coef2"]),
    ("scale_factor", np.float32(1)),
    ("logvar", np.ones(1000, np.float32)),
  ):
    with pytest.raises(ValueError, match=f"The checkpoint's {name} is not"):
      sd1.from_original(state | {name: wrong}, TINY)


def test_faults_name_the_tensors(state):
  with pytest.raises(ValueError, match=r"not of .* 1 of them, first x\.y"):
    sd1.from_original(state | {"x.y": np.ones(1)}, TINY)
  less = {k: x for k, x in state.items() if not k.startswith("first_stage")}
  with pytest.raises(ValueError, match="has no first_stage: a whole model"):
    sd1.from_original(less, TINY)
  for name in (
    "model.diffusion_model.out.3.bias",
    "first_stage_model.encoder.x.bias",
    "cond_stage_model.transformer.text_model.x",
  ):
    with pytest.raises(ValueError, match=r"unused: .*(out\.3\.bias|\.x)"):
      sd1.from_original(state | {name: np.ones(1, np.float32)}, TINY)
  less = dict(state)
  del less["first_stage_model.post_quant_conv.bias"]
  with pytest.raises(ValueError, match=r"missing: .*post_quant_conv\.bias"):
    sd1.from_original(less, TINY)


@pytest.fixture
def folder(tmp_path, params):
  vocabulary = tmp_path / "vocabulary"
  vocabulary.mkdir()
  write_clip_files(vocabulary)
  sd1_folder.save(tmp_path / "model", params, TINY, vocabulary)
  return tmp_path / "model"


def test_folders(folder, params):
  """Entries that do not matter may differ."""
  for path, change in (
    ("unet/config.json", {"class_embed_type": None, "sample_size": 1}),
    ("scheduler/scheduler_config.json", {"steps_offset": 0, "other": 5}),
  ):
    entries = json.loads((folder / path).read_text())
    (folder / path).write_text(json.dumps(entries | change))
  assert_equal(sd1.load(folder, TINY), params)
  tokenizer = sd1_folder.load_tokenizer(folder)
  assert tokenizer("the cat").shape == (1, 77)
  with pytest.raises(ValueError, match="does not tell weights from averages"):
    sd1.load(folder, TINY, "require")


def test_folders_of_torch_files(folder, params):
  torch = pytest.importorskip("torch")
  for name, ours, theirs in (
    ("unet", "diffusion_pytorch_model", "diffusion_pytorch_model"),
    ("text_encoder", "model", "pytorch_model"),
  ):
    path = folder / name / f"{ours}.safetensors"
    tensors = {k: torch.from_numpy(x) for k, x in read_state(path).items()}
    path.unlink()
    torch.save(tensors, folder / name / f"{theirs}.bin")
  vae = folder / "vae/diffusion_pytorch_model.safetensors"
  vae.rename(vae.with_suffix(".fp16.safetensors"))
  assert_equal(sd1.load(folder, TINY), params)


# What the release says; diffusers may have added options since.
RELEASED = {
  "unet": {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
  },
  "vae": {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
  },
}


def test_the_configurations_of_the_release(tmp_path):
  """As far as they tell networks apart; parity covers diffusers' defaults."""
  unet = sd1_folder.unet_config(sd1.SD1.unet)
  assert unet.items() <= RELEASED["unet"].items()
  inpainting = sd1_folder.unet_config(sd1.SD1_INPAINTING.unet)
  assert inpainting == unet | {"in_channels": 9}
  path = tmp_path / "config.json"
  path.write_text(json.dumps(RELEASED["vae"]))
  network, scale = first_stage_folders.configured(path)
  assert network.clone(resolution=256) == sd1.SD1.first_stage
  assert scale == sd1.SCALE_FACTOR == 0.18215


@pytest.mark.parametrize(
  ("name", "change", "message"),
  [
    ("unet", {"in_channels": 9}, "has in_channels 9, but 4 is wanted"),
    ("unet", {"use_linear_projection": True}, "True, but False is wanted"),
    ("unet", {"class_embed_type": "x"}, "'x', but None is wanted"),
    ("vae", {"scaling_factor": 0.13025}, "factor 0.13025, but 0.18215 is wan"),
    ("vae", {"layers_per_block": 3}, "num_res_blocks = 3.* num_res_blocks = 1"),
    ("text_encoder", {"num_attention_heads": 4}, "num_heads = 4.* is wanted"),
    ("scheduler", {"prediction_type": "v_prediction"}, "but 'epsilon' is wan"),
    ("scheduler", {"beta_end": 0.02}, "beta_end 0.02, but 0.012 is wanted"),
  ],
)
def test_other_configurations(folder, name, change, message):
  stem = "scheduler_config" if name == "scheduler" else "config"
  path = folder / name / f"{stem}.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(ValueError, match=f"(?s)json .*{message}"):
    sd1.load(folder, TINY)


def test_missing_parts_of_folders(folder):
  config = folder / "unet/config.json"
  text = config.read_text()
  entries = json.loads(text)
  del entries["layers_per_block"], entries["cross_attention_dim"]
  config.write_text(json.dumps(entries))
  with pytest.raises(ValueError, match="lacks layers_per_block, cross_att"):
    sd1.load(folder, TINY)
  config.write_text("[1]")
  with pytest.raises(ValueError, match="holds a list, not entries"):
    sd1.load(folder, TINY)
  config.write_text(text)
  (folder / "vae/diffusion_pytorch_model.safetensors").unlink()
  with pytest.raises(FileNotFoundError, match=r"vae.diffusion_pytorch_model\."):
    sd1.load(folder, TINY)
  (folder / "scheduler/scheduler_config.json").unlink()
  with pytest.raises(FileNotFoundError, match=r"There is no file .*sched"):
    sd1.load(folder, TINY)


@pytest.mark.parametrize(
  ("field", "value", "message"),
  [
    ("num_head_channels", 8, "a number of heads, no classes and"),
    ("transformer_depth", 2, "transformers of one block, got .* 2"),
  ],
)
def test_networks_that_diffusers_lacks(field, value, message):
  with pytest.raises(ValueError, match=message):
    sd1_folder.unet_config(TINY.unet.clone(**{field: value}))
