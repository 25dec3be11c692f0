"""Score networks made conditional on a class by a noisy-image classifier."""

import jax.numpy as jnp

import jaxgen.diffusion as jd
from experiments.models import Model
from jaxgen.nn.score_classifier import WideResNet
from jaxgen.types import Array, PyTree


def with_classifier(
  model: Model,
  classifier: WideResNet,
  classifier_params: PyTree,
  label: int,
  scale: float = 1.0,
) -> Model:
  """The model of p(x | label) (Song et al. 2021, Eq. 14).

  Args:
    model: of a VE SDE, whose images and sigma the classifier takes.
    classifier: of noisy images in [0, 1], told sigma.
    classifier_params: its parameters.
    label: the class of every image.
    scale: of the classifier's gradient; the paper's is 1.

  Raises:
    ValueError: the model is of another SDE, or the class is unknown.
  """
  if model.config.sde != "ve":
    raise ValueError(
      f"the classifier is one of the VE SDE, got a model of {model.config.sde}"
    )
  if not 0 <= label < classifier.num_classes:
    raise ValueError(
      f"label must lie in [0, {classifier.num_classes - 1}], got {label}"
    )
  process = model.process

  def denoiser(params: PyTree, labels: Array | None) -> jd.Denoiser:
    def logits(x: Array, t: Array) -> Array:
      variables = {"params": params["classifier"]}
      found = classifier.apply(variables, (x + 1) / 2, process.sigma(t) / 2)
      return jnp.asarray(found)

    unguided = model.denoiser(params["score"], labels)

    def guided(x_t: Array, t: Array) -> jd.Prediction:
      wanted = jnp.full(len(x_t), label)
      log_prob = jd.class_log_prob(logits, wanted)
      return jd.classifier_guided(process, unguided, log_prob, scale)(x_t, t)

    return guided

  params = {"score": model.params, "classifier": classifier_params}
  return model._replace(params=params, denoiser=denoiser)
