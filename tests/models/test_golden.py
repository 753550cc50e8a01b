"""SEANet computes what the published PyTorch network computes (tests/models/golden/README.md)."""

import dataclasses

import golden_reference as reference
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from optimized_jit import optimized_jit

from seanet_jax.models import SEANet, model_config
from seanet_jax.models.network import split_model
from seanet_jax.models.scores import cross_entropy
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.optimizer import optimizer

pytestmark = pytest.mark.usefixtures("optimized")


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Largest differences allowed; relative but for the trajectory's losses.

    The gradients' are in the L2 norm, and wider in float32: see tests/models/golden/README.md.
    """

    logits: float
    gradient_norms: float
    gradients: float
    trajectory_losses: float
    trajectory_norms: float
    statistics: float


BOUNDS = {
    ("float64", "lax"): Bounds(1e-6, 1e-6, 1e-6, 1e-6, 1e-6, 1e-6),
    ("float32", "lax"): Bounds(1e-5, 1e-3, 5e-3, 3e-4, 5e-4, 2e-3),
    ("float32", "auto"): Bounds(1e-5, 1e-2, 5e-2, 1e-3, 1e-3, 2e-3),
}
VARIANTS = [
    ("cifar100", "float64", "lax"),
    pytest.param(("cifar10", "float64", "lax"), marks=pytest.mark.slow),
    pytest.param(("cifar10", "float32", "lax"), marks=pytest.mark.slow),
    # The dtype and the method that are the defaults on a CPU.
    pytest.param(("cifar10", "float32", "auto"), marks=pytest.mark.slow),
]


class Network:
    """The published weights in this package's network, with jitted passes."""

    def __init__(self, dataset, dtype, conv_method):
        self.golden = reference.load(dataset)
        self.classes = reference.CLASSES[dataset]
        self.dtype, self.bounds = dtype, BOUNDS[dtype, conv_method]
        config = model_config("seanet20", num_classes=self.classes, conv_method=conv_method)
        object.__setattr__(config, "dtype", dtype)  # float64 is for this test alone
        model = nnx.eval_shape(lambda: SEANet(config, rngs=nnx.Rngs(0)))
        reference.set_weights(model, self.golden, dtype)
        self.graphdef, self.params, self.batch_stats = split_model(model)
        model.eval()
        self.eval_graphdef, _, _ = split_model(model)
        self.gradient = optimized_jit(jax.value_and_grad(self._loss, has_aux=True))

    def predict(self, x):
        # The weights are arguments, because as constants they take long to compile.
        return optimized_jit(lambda *state: nnx.merge(self.eval_graphdef, *state)(x))(self.params, self.batch_stats)

    def batch(self, source=None):
        images, labels = reference.images_and_labels(self.classes, source)
        return jnp.asarray(images, self.dtype), jnp.asarray(labels)

    def _loss(self, params, batch_stats, x, y):
        model = nnx.merge(self.graphdef, params, batch_stats)
        logits = model(x)
        return cross_entropy(logits, y).mean(), (logits, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

    def entries(self, kind):
        """Returns the golden entries of a kind, by PyTorch's name."""
        return {key.removeprefix(f"{kind}/"): value for key, value in self.golden.items() if key.startswith(f"{kind}/")}


@pytest.fixture(scope="module", params=VARIANTS, ids="-".join)
def network(request):
    _, dtype, _ = request.param
    with jax.enable_x64(dtype == "float64"):
        yield Network(*request.param)


@pytest.fixture(scope="module")
def one_pass(network):
    (loss, (logits, _)), gradients = network.gradient(network.params, network.batch_stats, *network.batch())
    return loss, logits, gradients


@pytest.fixture(scope="module")
def five_steps(network):
    sgd = optimizer(TrainConfig(learning_rate=0.01, momentum=0.9, weight_decay=1e-4), steps_per_epoch=5)
    params, batch_stats, source = network.params, network.batch_stats, np.random.RandomState(2)
    opt_state, losses = sgd.init(params), []
    for _ in range(5):
        (loss, (_, batch_stats)), gradients = network.gradient(params, batch_stats, *network.batch(source))
        updates, opt_state = sgd.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
        losses.append(float(loss))
    return losses, params, batch_stats


def leaf(tree, key):
    for part in reference.path(key):
        tree = tree[part]
    return np.asarray(tree, np.float64)


def relative_error(ours, theirs):
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


def test_parameter_count(network):
    assert sum(p.size for p in jax.tree.leaves(network.params)) == network.golden["num_params"]


def test_eval_logits(network):
    x, _ = network.batch()
    logits = network.predict(x)
    assert logits.dtype == network.dtype
    assert relative_error(logits, network.golden["eval_logits"]) < network.bounds.logits


@pytest.mark.slow
def test_train_logits_and_loss(network, one_pass):
    loss, logits, _ = one_pass
    assert relative_error(logits, network.golden["train_logits"]) < network.bounds.logits
    assert abs(loss / network.golden["train_loss"] - 1) < network.bounds.logits


@pytest.mark.slow
def test_every_gradient_norm(network, one_pass):
    gradients = one_pass[2]
    norms = network.entries("gradnorm")
    assert len(norms) == len(jax.tree.leaves(gradients))
    for key, theirs in norms.items():
        assert abs(np.linalg.norm(leaf(gradients, key)) / theirs - 1) < network.bounds.gradient_norms, key


@pytest.mark.slow
def test_whole_gradients(network, one_pass):
    entries = network.entries("grad")
    assert len(entries) == 8
    for key, theirs in entries.items():
        difference = leaf(one_pass[2], key) - reference.to_ours(theirs)
        assert np.linalg.norm(difference) / np.linalg.norm(theirs) < network.bounds.gradients, key


@pytest.mark.slow
def test_five_steps_of_sgd(network, five_steps):
    losses, params, _ = five_steps
    assert np.abs(np.array(losses) - network.golden["traj_losses"]).max() < network.bounds.trajectory_losses
    norms = network.entries("traj_norm")
    assert len(norms) == len(jax.tree.leaves(params))
    for key, theirs in norms.items():
        assert abs(np.linalg.norm(leaf(params, key)) / theirs - 1) < network.bounds.trajectory_norms, key


@pytest.mark.slow
def test_running_statistics_after_five_steps(network, five_steps):
    entries = network.entries("stat")
    assert len(entries) == 4
    for key, theirs in entries.items():
        assert relative_error(leaf(five_steps[2], key), theirs) < network.bounds.statistics, key
