"""Every test runs on eight virtual CPU devices, with implicit rank promotion
an error, so that a missing broadcast fails here and not in an experiment."""

import os
import tempfile

# Before jax is imported, so that scripts the tests start share it: the same
# program is compiled once for the whole suite.
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  os.path.join(tempfile.gettempdir(), f"jaxgen-test-cache-{os.getuid()}"),
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Compiling is what takes time here: three tenths less without optimisations.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")
