"""A network with any aggregate is converted to ONNX, and gives the same probabilities there. Needs the extra onnx."""

import jax
import numpy as np
import pytest
from flax import nnx

from seanet_jax import ImageSpec, SEANet, SEANetConfig
from seanet_jax.inference.stablehlo import probabilities
from seanet_jax.layers.aggregates import AGGREGATE_KINDS
from seanet_jax.models.fold import fold_batch_norm

jax2onnx = pytest.importorskip("jax2onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SPEC = ImageSpec(4, 4, (0.5,) * 3, (0.25,) * 3, tuple("abcdefghij"))

# The others are the sum times a constant.
KINDS = [kind for kind in AGGREGATE_KINDS if kind not in ("sum", "mean", "normalized_sum")]


@pytest.mark.filterwarnings("ignore")  # those of the converter
@pytest.mark.parametrize(("kind", "norm"), [("sum", True), *((kind, False) for kind in KINDS)])
def test_every_aggregate_gives_the_same_probabilities_in_onnx(kind, norm):
    config = SEANetConfig(
        stage_sizes=(1,),
        widths=(8,),
        stem_width=4,
        aggregate_op=kind,
        aggregate_norm=norm,
        aggregate_seed=4,
        conv_method="lax",
    )
    model = nnx.jit(lambda: SEANet(config, rngs=nnx.Rngs(0)))()
    model.eval()
    converted = jax2onnx.to_onnx(
        probabilities(fold_batch_norm(model), SPEC),
        [jax.ShapeDtypeStruct(("batch", 4, 4, 3), np.uint8)],
        input_names=["images"],
        output_names=["probabilities"],
    )
    session = onnxruntime.InferenceSession(converted.SerializeToString())
    for batch in (1, 5):
        pixels = np.random.RandomState(0).randint(0, 256, (batch, 4, 4, 3)).astype(np.uint8)
        (found,) = session.run(["probabilities"], {"images": pixels})
        np.testing.assert_allclose(found, jax.jit(probabilities(model, SPEC))(pixels), rtol=1e-4, atol=1e-6)
