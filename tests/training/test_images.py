import pytest

from seanet_jax.errors import InputError
from seanet_jax.training.run import fit


def test_a_batch_larger_than_the_data_is_refused_before_anything_is_written(tiny):
    config = tiny(batch_size=41)
    with pytest.raises(InputError, match="batch_size is 41; it must be at most 40"):
        fit(config)
    assert not config.out.exists()
