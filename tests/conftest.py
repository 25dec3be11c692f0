"""Every test runs on eight virtual CPU devices, with implicit rank promotion
an error, so that a missing broadcast fails here and not in an experiment."""

import gc
import os
from importlib.metadata import version

# Before jax is imported, so that scripts the tests start share it. Compiling is
# what takes time here: three tenths less without optimisations, half of the
# rest without the emitters that make fusions through MLIR, a sixth of that
# where a program is not split over threads (two workers keep two cores busy), a
# tenth less without files of what was compiled, a little less without lines of
# the source. XLA ends the process at a flag that it does not know.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ["XLA_FLAGS"] = " ".join(
  [
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false"
    if version("jaxlib").startswith("0.10.")
    else "",
    os.environ.get("XLA_FLAGS", ""),
  ]
)
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "0")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tracing makes many objects and little garbage: a tenth less time.
gc.set_threshold(200_000, 50, 1000)
