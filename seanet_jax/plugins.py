"""Finds the networks and data sets that other installed packages add.

A package adds them by naming a module under the entry point group ``seanet_jax.plugins`` in its ``pyproject.toml``::

    [project.entry-points."seanet_jax.plugins"]
    my_package = "my_package.networks"

That module calls ``seanet_jax.models.register_family``, ``register_preset`` or their like when it is imported.
"""

import importlib.metadata

from seanet_jax.errors import InputError

GROUP = "seanet_jax.plugins"

_started = False
_failure: str | None = None


def load_plugins() -> None:
    """Imports the modules that installed packages name under the entry point group, once in a process.

    The tables of names call this only when a name is missing from them, because most runs need no plugin, and a broken
    one must not stop them.

    Raises:
        InputError: If a module cannot be imported. Later calls raise the same error.
    """
    global _started, _failure
    # Set before the imports, since a plugin may look up a name itself while it is imported.
    if not _started:
        _started = True
        for entry in sorted(importlib.metadata.entry_points(group=GROUP)):
            try:
                entry.load()
            except Exception as error:  # a plugin is foreign code, which can fail in any way
                _failure = (
                    f"the plugin {entry.name} ({entry.value}) cannot be imported: {type(error).__name__}: {error}; "
                    "repair or uninstall the package that names it"
                )
                raise InputError(_failure) from error
    if _failure is not None:
        raise InputError(_failure)
