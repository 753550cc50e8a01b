"""SEANet in JAX and Flax NNX."""
