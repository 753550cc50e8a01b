"""The command ``seanet`` with small ResNets, for the runs of small_digits.py."""

import small_presets  # noqa: F401

from seanet_jax.__main__ import main

if __name__ == "__main__":
    main()
