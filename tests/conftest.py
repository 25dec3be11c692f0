"""Every test runs on eight virtual CPU devices, with implicit rank promotion
an error, so that a missing broadcast fails here and not in an experiment."""

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
