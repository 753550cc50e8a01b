"""The layers of the networks, to be used in any JAX project.

Start at ``modules.py`` for Flax NNX modules (``Aggregate``, ``SqueezeExcite``, ``ResidualBlock`` and the layers that
they consist of), or at ``functional.py`` for the same operations as pure functions of arrays. ``aggregates.py`` has
what may stand in the place of an aggregate's sum. ``convolution.py`` has the convolution with its forms for CPUs, one
of them in ``winograd.py``; ``capsules.py`` and ``transport.py`` have what EncapNet adds.
"""
