"""ADM's hyper-parameters (Dhariwal & Nichol 2021, Tables 11 and 12).

ADM is improved DDPM's model with another network and T = 1000. These are its
runs for `experiments.iddpm.train`, and its upsamplers, whose training is not
published beyond what stands here.
"""

import dataclasses

from experiments.iddpm.config import Config

_ADM = Config(
  name="adm_imagenet256",
  image_size=256,
  flip=True,
  num_classes=1000,
  channels=256,
  channel_mult=(1, 1, 2, 2, 4, 4),
  num_res_blocks=2,
  attention_resolutions=(32, 16, 8),
  num_head_channels=64,
  resblock_updown=True,
  T=1000,
  schedule="linear",
  hybrid_weight=1 / 1000,
  rescale_timesteps=False,
  batch_size=256,
  steps=1_980_000,
)
_LSUN = dataclasses.replace(
  _ADM, num_classes=0, dropout=0.1, dataset="lsun/bedroom", steps=500_000
)
_UPSAMPLER = dataclasses.replace(
  _ADM,
  name="adm_upsampler_64_256",
  low_res_size=64,
  channels=192,
  num_head_channels=None,
  steps=500_000,
)

CONFIGS = {
  "adm_imagenet64": dataclasses.replace(
    _ADM,
    name="adm_imagenet64",
    image_size=64,
    channels=192,
    channel_mult=(1, 2, 3, 4),
    num_res_blocks=3,
    new_attention_order=True,
    dropout=0.1,
    schedule="cosine",
    lr=3e-4,
    batch_size=2048,
    steps=540_000,
  ),
  "adm_imagenet128": dataclasses.replace(
    _ADM,
    name="adm_imagenet128",
    image_size=128,
    channel_mult=(1, 1, 2, 3, 4),
    num_head_channels=None,
    steps=4_360_000,
  ),
  "adm_imagenet256": _ADM,
  "adm_imagenet256_uncond": dataclasses.replace(
    _ADM, name="adm_imagenet256_uncond", num_classes=0
  ),
  "adm_imagenet512": dataclasses.replace(
    _ADM,
    name="adm_imagenet512",
    image_size=512,
    channel_mult=(0.5, 1, 1, 2, 2, 4, 4),
    steps=1_940_000,
  ),
  "adm_upsampler_64_256": _UPSAMPLER,
  "adm_upsampler_128_512": dataclasses.replace(
    _UPSAMPLER,
    name="adm_upsampler_128_512",
    image_size=512,
    low_res_size=128,
    attention_resolutions=(32, 16),
    num_head_channels=64,
  ),
  "adm_lsun_bedroom": dataclasses.replace(_LSUN, name="adm_lsun_bedroom"),
  "adm_lsun_cat": dataclasses.replace(
    _LSUN, name="adm_lsun_cat", dataset="lsun/cat", steps=200_000
  ),
  "adm_lsun_horse": dataclasses.replace(
    _LSUN, name="adm_lsun_horse", dataset="lsun/horse", steps=250_000
  ),
}

# The released files of guided-diffusion and their configurations.
RELEASED = {
  "64x64_diffusion.pt": "adm_imagenet64",
  "128x128_diffusion.pt": "adm_imagenet128",
  "256x256_diffusion.pt": "adm_imagenet256",
  "256x256_diffusion_uncond.pt": "adm_imagenet256_uncond",
  "512x512_diffusion.pt": "adm_imagenet512",
  "64_256_upsampler.pt": "adm_upsampler_64_256",
  "128_512_upsampler.pt": "adm_upsampler_128_512",
  "lsun_bedroom.pt": "adm_lsun_bedroom",
  "lsun_cat.pt": "adm_lsun_cat",
  "lsun_horse.pt": "adm_lsun_horse",
  "lsun_horse_nodropout.pt": "adm_lsun_horse",
}
