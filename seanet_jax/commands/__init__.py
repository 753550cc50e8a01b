"""The commands of the ``seanet`` program.

Each module named after a command has a function ``main``, which parses the arguments, runs the command and exits. The
work itself is in the other rooms: a command imports it late, so that --help and a wrong argument need not wait for JAX.
``cli`` has what all commands share, ``study`` what the studies share, and ``cpu_tuning`` the settings for training on a
CPU.
"""
