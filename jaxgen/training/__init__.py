"""Training: state, step, mesh, checkpoints and log; the loop is the script's.

`jaxgen.training.loop` shows the loop.
"""

from jaxgen.training.checkpoint_files import DataIterator
from jaxgen.training.checkpoints import (
  Checkpoints,
  restore_experiment,
  restore_params,
  trained_steps,
)
from jaxgen.training.loop import Log, stop_on_sigterm
from jaxgen.training.metrics import MetricsWriter
from jaxgen.training.nonfinite import skip_nonfinite
from jaxgen.training.optimizers import (
  EmaDecay,
  adam,
  constant_ema,
  update_ema,
  warmed_up_ema,
)
from jaxgen.training.parallel import (
  gather,
  initialize_distributed,
  make_mesh,
  shard_batch,
  shard_state,
  split_batch,
  state_sharding,
)
from jaxgen.training.peers import leave, leave_with_the_lost
from jaxgen.training.progress import Progress
from jaxgen.training.state import TrainState, init_state
from jaxgen.training.step import LossFn, TrainStep, make_train_step

__all__ = [
  "Checkpoints",
  "DataIterator",
  "EmaDecay",
  "Log",
  "LossFn",
  "MetricsWriter",
  "Progress",
  "TrainState",
  "TrainStep",
  "adam",
  "constant_ema",
  "gather",
  "init_state",
  "initialize_distributed",
  "leave",
  "leave_with_the_lost",
  "make_mesh",
  "make_train_step",
  "restore_experiment",
  "restore_params",
  "shard_batch",
  "shard_state",
  "skip_nonfinite",
  "split_batch",
  "state_sharding",
  "stop_on_sigterm",
  "trained_steps",
  "update_ema",
  "warmed_up_ema",
]
