import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seanet_jax.training.config import TrainConfig, published_recipe
from seanet_jax.training.optimizer import optimizer
from seanet_jax.training.schedule import learning_rate_schedule
from seanet_jax.training.step import abstract_state


def pytorch_sgd(parameters, gradients, config, steps_per_epoch):
    """The parameters after each step of torch.optim.SGD, in float64."""
    p = {name: value.astype(np.float64) for name, value in parameters.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    history = []
    for step, g in enumerate(gradients):
        rate = config.learning_rate * config.decay_factor ** (step // steps_per_epoch // config.decay_every)
        for name in p:
            v[name] = config.momentum * v[name] + g[name] + config.weight_decay * p[name]
            p[name] = p[name] - rate * v[name]
        history.append(dict(p))
    return history


def assert_follows(transformation, parameters, gradients, expected):
    p = jax.tree.map(jnp.asarray, parameters)
    state = transformation.init(p)
    update = jax.jit(transformation.update)
    for g, right in zip(gradients, expected, strict=True):
        updates, state = update(g, state, p)
        p = optax.apply_updates(p, updates)
        for name in p:
            np.testing.assert_allclose(p[name], right[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_optimizer_equals_pytorch_sgd_across_a_decay(momentum):
    config = TrainConfig(decay_every=2, weight_decay=0.05, momentum=momentum)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,), "scale": (4,)}
    p = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(9)]
    expected = pytorch_sgd(p, gradients, config, steps_per_epoch=2)  # decays before steps 4 and 8

    assert_follows(optimizer(config, steps_per_epoch=2), p, gradients, expected)


def test_weight_decay_reaches_every_parameter_biases_and_normalization_included():
    config = TrainConfig(learning_rate=0.5, weight_decay=0.1)
    transformation = optimizer(config, steps_per_epoch=10)
    p = {"conv": {"kernel": jnp.ones((3, 3, 1, 1))}, "bn": {"scale": jnp.ones(2), "bias": jnp.full(2, -2.0)}}
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, p), transformation.init(p), p)
    jax.tree.map(lambda u, p: np.testing.assert_allclose(u, -0.5 * 0.1 * p, rtol=1e-6), updates, p)


def pytorch_adam(parameters, gradients, config):
    """The parameters after each step of torch.optim.Adam with weight_decay, in float64."""
    p = {name: value.astype(np.float64) for name, value in parameters.items()}
    m = {name: np.zeros_like(value) for name, value in p.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    history = []
    for step, g in enumerate(gradients, start=1):
        for name in p:
            decayed = g[name] + config.weight_decay * p[name]
            m[name] = config.momentum * m[name] + (1 - config.momentum) * decayed
            v[name] = 0.999 * v[name] + 0.001 * decayed**2
            mean, square = m[name] / (1 - config.momentum**step), v[name] / (1 - 0.999**step)
            p[name] = p[name] - config.learning_rate * mean / (np.sqrt(square) + 1e-8)
        history.append(dict(p))
    return history


def test_adam_is_pytorchs():
    config = TrainConfig(optimizer="adam", learning_rate=0.01, weight_decay=0.05, momentum=0.8)
    rng = np.random.default_rng(0)
    shapes = {"kernel": (3, 3, 2, 4), "bias": (4,)}
    p = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = [{name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()} for _ in range(6)]
    expected = pytorch_adam(p, gradients, config)
    assert_follows(optimizer(config, steps_per_epoch=100), p, gradients, expected)


# The optimizers beside PyTorch's.

STEPS = 50
SHAPES = {
    "stem": {"kernel": (3, 3, 2, 4), "bias": (4,)},
    "expand": {"kernel": (4, 9)},
    "bn": {"scale": (4,)},
    "classifier": {"kernel": (9, 3), "bias": (3,)},
}
ADAM_PARTS = ("bias", "scale", "classifier")


def drawn(random, size=1.0):
    return jax.tree.map(lambda shape: size * random.normal(size=shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def named(tree):
    """The leaves of a tree by name, each of several axes as the matrix that PyTorch has, [out, in]."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    matrices = [leaf if leaf.ndim == 1 else leaf.reshape(-1, leaf.shape[-1]).T for _, leaf in leaves]
    return dict(zip((jax.tree_util.keystr(path) for path, _ in leaves), matrices, strict=True))


def groups(tensors, config):
    """PyTorch's groups of parameters: those with and those without weight decay."""
    vectors = [tensor for tensor in tensors if tensor.ndim == 1]
    matrices = [tensor for tensor in tensors if tensor.ndim > 1]
    decay = config.weight_decay if config.decay_vectors else 0
    found = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": decay}]
    return [group for group in found if group["params"]]


def torch_sgd(torch, tensors, config):
    parameters = groups(tensors.values(), config)
    return [torch.optim.SGD(parameters, config.learning_rate, config.momentum, nesterov=config.nesterov)]


def torch_adam(torch, tensors, config):
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return [kind(groups(tensors.values(), config), config.learning_rate, betas=(config.momentum, 0.999))]


def torch_muon(torch, tensors, config):
    rest = {name: tensor for name, tensor in tensors.items() if any(part in name for part in ADAM_PARTS)}
    hidden = [tensor for name, tensor in tensors.items() if name not in rest]
    options = {"momentum": config.momentum, "weight_decay": config.weight_decay, "adjust_lr_fn": "match_rms_adamw"}
    return [
        torch.optim.Muon(hidden, config.learning_rate, **options),
        torch.optim.AdamW(groups(rest.values(), config), config.learning_rate),
    ]


class DecoupledSGD:
    """SGD whose weight decay is decoupled, by hand around PyTorch's."""

    def __init__(self, torch, tensors, config):
        self.groups = groups(tensors.values(), config)
        self.param_groups = [{"lr": config.learning_rate}]
        self.descent = torch.optim.SGD(tensors.values(), config.learning_rate, config.momentum)

    def step(self):
        self.descent.param_groups[0]["lr"] = rate = self.param_groups[0]["lr"]
        for group in self.groups:
            for tensor in group["params"]:
                tensor.data.mul_(1 - rate * group["weight_decay"])
        self.descent.step()


CASES = {
    "SGD": ({}, torch_sgd),
    "SGD without momentum": ({"momentum": 0.0}, torch_sgd),
    "Nesterov": ({"nesterov": True}, torch_sgd),
    "Nesterov, clipped": ({"nesterov": True, "clip_norm": 8.0}, torch_sgd),
    "SGD, vectors undecayed": ({"decay_vectors": False}, torch_sgd),
    "SGD, decoupled": ({"decoupled_decay": True}, lambda *args: [DecoupledSGD(*args)]),
    "SGD, decoupled, vectors undecayed": (
        {"decoupled_decay": True, "decay_vectors": False},
        lambda *args: [DecoupledSGD(*args)],
    ),
    "Adam": ({"optimizer": "adam"}, torch_adam),
    "Adam, clipped, vectors undecayed": ({"optimizer": "adam", "clip_norm": 8.0, "decay_vectors": False}, torch_adam),
    "AdamW": ({"optimizer": "adamw", "momentum": 0.8}, torch_adam),
    "AdamW, vectors undecayed": ({"optimizer": "adamw", "decay_vectors": False}, torch_adam),
    "Muon": ({"optimizer": "muon", "momentum": 0.95}, torch_muon),
    "Muon, clipped, vectors undecayed": ({"optimizer": "muon", "clip_norm": 8.0, "decay_vectors": False}, torch_muon),
}


@pytest.mark.parametrize("name", CASES)
def test_optimizers_are_pytorchs_over_50_steps_of_a_cosine(torch, name, monkeypatch):
    # PyTorch's Muon computes in bfloat16. Here it does in float64, as do the other optimizers.
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    fields, make = CASES[name]
    config = TrainConfig(
        **{"learning_rate": 0.02, "weight_decay": 0.1, "schedule": "cosine", "epochs": 10, "warmup_epochs": 1, **fields}
    )
    random = np.random.default_rng(0)
    parameters = drawn(random)
    # Some are shorter than clip_norm, and some are longer.
    gradients = [drawn(random, size) for size in random.uniform(0.3, 1.5, STEPS)]

    tensors = {key: torch.nn.Parameter(torch.tensor(value)) for key, value in named(parameters).items()}
    descents = make(torch, tensors, config)
    transformation = optimizer(config, steps_per_epoch=STEPS // 10)
    p = jax.tree.map(jnp.float32, parameters)
    state, update = transformation.init(p), jax.jit(transformation.update)
    for step, gradient in enumerate(gradients):
        for key, value in named(gradient).items():
            tensors[key].grad = torch.tensor(value)
        if config.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors.values(), config.clip_norm)
        # The schedule by hand: five steps of warm-up, then a cosine over 45.
        share = (step + 1) / 6 if step < 5 else (1 + np.cos(np.pi * (step - 5) / 45)) / 2
        for descent in descents:
            for group in descent.param_groups:
                group["lr"] = config.learning_rate * share
            descent.step()
        updates, state = update(jax.tree.map(jnp.float32, gradient), state, p)
        p = optax.apply_updates(p, updates)
        for key, found in named(jax.tree.map(np.asarray, p)).items():
            np.testing.assert_allclose(found, tensors[key].detach().numpy(), rtol=2e-5, atol=2e-5, err_msg=key)


# What the optimizers are made of.


def structure(transformation):
    return jax.tree.structure(transformation.init({"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}))


def test_the_published_recipes_state_and_program_are_those_of_version_0_1_0():
    # Checkpoints hold the state, in the structure of its tuples.
    published, encapnet = TrainConfig(), TrainConfig(**published_recipe("encapnet"))
    for config, descent in (
        (published, optax.sgd(learning_rate_schedule(published, 7), momentum=0.9)),
        (encapnet, optax.adam(learning_rate_schedule(encapnet, 7), b1=0.9)),
    ):
        earlier = optax.chain(optax.add_decayed_weights(config.weight_decay), descent)
        ours = optimizer(config, 7)
        assert structure(ours) == structure(earlier)
        p = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
        programs = [str(jax.make_jaxpr(made.update)(p, made.init(p), p)) for made in (ours, earlier)]
        assert programs[0] == programs[1]


@pytest.mark.slow
def test_muon_orthogonalizes_the_kernels_of_convolutions_as_matrices():
    config = TrainConfig(optimizer="muon", weight_decay=0.0, learning_rate=0.1, schedule="constant", decay_every=None)
    transformation = optimizer(config, steps_per_epoch=10)
    p = jax.tree.map(jnp.float32, drawn(np.random.default_rng(0)))
    updates, _ = transformation.update(drawn(np.random.default_rng(1)), transformation.init(p), p)
    for name, rows, columns in (("stem", 18, 4), ("expand", 4, 9)):
        matrix = np.asarray(updates[name]["kernel"]).reshape(rows, columns)
        singular = np.linalg.svd(matrix, compute_uv=False) / (0.1 * 0.2 * max(rows, columns) ** 0.5)
        assert singular.min() > 0.6 and singular.max() < 1.3
    # Adam's first step is the sign of the gradient.
    for update in (updates["classifier"]["kernel"], updates["stem"]["bias"], updates["bn"]["scale"]):
        np.testing.assert_allclose(abs(update), 0.1, rtol=1e-4)


def test_a_gradient_of_zero_moves_nothing():
    for name in ("sgd", "adam", "adamw", "muon"):
        transformation = optimizer(TrainConfig(optimizer=name, weight_decay=0.0, clip_norm=1.0), 10)
        p = jax.tree.map(jnp.float32, drawn(np.random.default_rng(0)))
        updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, p), transformation.init(p), p)
        assert not any(leaf.any() for leaf in jax.tree.leaves(updates))


@pytest.mark.parametrize("decoupled", [False, True])
def test_weight_decay_of_matrices_alone(decoupled):
    config = TrainConfig(learning_rate=0.5, weight_decay=0.1, decay_vectors=False, decoupled_decay=decoupled)
    transformation = optimizer(config, steps_per_epoch=10)
    p = {"conv": {"kernel": jnp.ones((3, 3, 1, 1))}, "bn": {"scale": jnp.ones(2)}, "fc": {"kernel": jnp.ones((2, 3))}}
    updates, _ = transformation.update(jax.tree.map(jnp.zeros_like, p), transformation.init(p), p)
    for name, expected in (("conv", -0.05), ("fc", -0.05)):
        np.testing.assert_allclose(updates[name]["kernel"], expected, rtol=1e-6)
    assert not updates["bn"]["scale"].any()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
@pytest.mark.parametrize("model", ["seanet20_narrow", "resnet20", "encapnet"])
def test_every_network_has_an_update_by_every_optimizer(model, name):
    config = TrainConfig(model=model, optimizer=name, decay_vectors=False, clip_norm=1.0)
    transformation = optimizer(config, steps_per_epoch=10)
    _, state = abstract_state(config.model_config(10), transformation)
    updates, opt_state = jax.eval_shape(transformation.update, state.params, state.opt_state, state.params)
    assert jax.tree.map(jnp.shape, updates) == jax.tree.map(jnp.shape, state.params)
    assert jax.tree.structure(opt_state) == jax.tree.structure(state.opt_state)
    orthogonal = {
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
        if "'muon'" in jax.tree_util.keystr(path)
    }
    assert bool(orthogonal) == (name == "muon")
    assert all("kernel" in path and "classifier" not in path for path in orthogonal)
