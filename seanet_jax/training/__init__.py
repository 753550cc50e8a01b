"""Training: from a configuration to the folder of a run.

Start with ``fit(TrainConfig(...))``::

    from seanet_jax.training.config import TrainConfig
    from seanet_jax.training.run import fit

    summary = fit(TrainConfig(dataset="digits", model="seanet20_narrow", epochs=12, learning_rate=0.02))

``config`` says what a run can be told, and ``flags`` reads the same fields from a command line. ``run`` is the whole of
a run: it loads the data by ``images``, builds the ``trainer`` (network, data on the devices, compiled functions) and
hands it to the ``loop``, which takes the steps.

- ``trainer`` is made of ``step`` (training and evaluation step), ``optimizer``, ``schedule`` (learning rates) and
  ``sharding``. ``sharpness`` and ``averaging`` are what recipes add to a step: sharpness-aware gradients, and an
  average of the network.
- ``loop`` writes through ``run_folder`` (config, records, summary, which ``saved_run`` reads), ``checkpoint``,
  ``tensorboard`` and ``progress``. It stops when ``interrupt`` says so. ``run`` draws ``curves`` at the end.
- ``stopwatch`` measures what the time of a run is spent on.
- ``processes`` lets several processes train together: they exchange values, and fail together.
"""
