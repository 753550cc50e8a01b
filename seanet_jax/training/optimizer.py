"""The optimizer of a training run, in optax."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from seanet_jax.training.config import TrainConfig
from seanet_jax.training.schedule import learning_rate_schedule

# Muon's Newton-Schulz iteration: coefficients and number of steps of its authors.
_NEWTON_SCHULZ, _NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5


def optimizer(config: TrainConfig, steps_per_epoch: int) -> optax.GradientTransformation:
    """Returns the optimizer, computed as in PyTorch.

    An update consists of these steps. Each is left out if the config does not ask for it.

    1. If the norm of the gradient over all parameters exceeds ``clip_norm``, the gradient is scaled to this norm. It is
       the gradient of the loss alone, as in PyTorch, where ``clip_grad_norm_`` does not see the L2 penalty.
    2. L2: ``weight_decay`` times the parameter is added to the gradient.
    3. The direction of the update is computed:

       - ``sgd``: ``v = momentum * v + gradient``. The direction is ``v``, or with ``nesterov``
         ``momentum * v + gradient``.
       - ``adam`` and ``adamw``: Adam with ``momentum`` as beta 1, and 0.999 as beta 2. See Kingma and Ba, "Adam", ICLR
         2015, algorithm 1.
       - ``muon``: Nesterov momentum, orthogonalized for each matrix. See ``_orthogonalized``. The kernel of a
         convolution, ``[height, width, in, out]``, is a matrix ``[height * width * in, out]``. The classifier and all
         vectors have Adam's direction with beta 1 = 0.9, as the authors of Muon advise.

    4. Decoupled decay: ``weight_decay`` times the parameter is added to the direction. ``adamw`` and ``muon`` always
       decay in this way, never by L2. See Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.
    5. The learning rate times the direction is subtracted from the parameters.

    If ``decay_vectors`` is False, neither decay reaches parameters of fewer than two axes: scales and biases.

    Args:
        config: The run's configuration.
        steps_per_epoch: Number of optimizer steps in one epoch.

    Raises:
        InputError: If ``steps_per_epoch`` is not a positive integer.
    """
    rate = optax.scale_by_learning_rate(learning_rate_schedule(config, steps_per_epoch))
    decay = optax.add_decayed_weights(config.weight_decay, None if config.decay_vectors else _matrices)
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    # The nesting of the chains is part of every checkpoint: without the new fields, it stays that of version 0.1.0.
    if config.decoupled_decay or config.optimizer in ("adamw", "muon"):
        return optax.chain(*clip, optax.chain(_direction(config), decay, rate))
    return optax.chain(*clip, decay, optax.chain(_direction(config), rate))


def _direction(config: TrainConfig) -> optax.GradientTransformation:
    if config.optimizer == "sgd":
        return optax.trace(config.momentum, nesterov=config.nesterov)
    if config.optimizer == "muon":
        # Not optax.contrib.muon: it divides momentum by a bias correction that PyTorch does not have, changes Adam to
        # NAdam, and decays all parameters that are no matrices or none of them.
        orthogonalize = optax.stateless_with_tree_map(lambda update, _: _orthogonalized(update))
        parts = {
            "muon": optax.chain(optax.trace(config.momentum, nesterov=True), orthogonalize),
            "adam": optax.scale_by_adam(b1=0.9),
        }
        return optax.partition(parts, _labels)
    return optax.scale_by_adam(b1=config.momentum)


def _matrices(params: Any) -> Any:
    """Returns whether each parameter has at least two axes."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _labels(params: Any) -> Any:
    """Returns which part of Muon each parameter belongs to: "muon" for matrices before the classifier, else "adam"."""

    def label(path: Any, leaf: jax.Array) -> str:
        return "muon" if leaf.ndim > 1 and path[0].key != "classifier" else "adam"

    return jax.tree_util.tree_map_with_path(label, params)


def _orthogonalized(momentum: jax.Array) -> jax.Array:
    """Returns a matrix whose singular vectors are those of the momentum, and whose singular values are all about equal.

    Five steps of a Newton-Schulz iteration bring all singular values to between 0.7 and 1.2. See Jordan, "Muon", 2024,
    https://kellerjordan.github.io/posts/muon. The result is scaled by ``0.2 * sqrt(max(rows, columns))``, so that its
    root mean square is about that of Adam's updates, and one learning rate suits both parts of Muon. See Liu et al.,
    "Muon is Scalable for LLM Training", 2025, equation 4. It is ``adjust_lr_fn="match_rms_adamw"`` in PyTorch.

    Args:
        momentum: The momentum of a parameter. Its last axis is the columns of the matrix, the others are the rows.
    """
    matrix = momentum.reshape(-1, momentum.shape[-1])
    rows, columns = matrix.shape
    # The smaller axis first, so that the products are small.
    x = matrix if rows <= columns else matrix.T
    x = x / jnp.maximum(jnp.linalg.norm(x), 1e-7)
    first, third, fifth = _NEWTON_SCHULZ
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = first * x + (third * gram + fifth * (gram @ gram)) @ x
    x = x if rows <= columns else x.T
    return 0.2 * max(rows, columns) ** 0.5 * x.reshape(momentum.shape)
