import tomllib
from pathlib import Path

import seanet_jax
from seanet_jax.version import __version__

ROOT = Path(__file__).parent.parent


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert seanet_jax.__version__ == __version__ == project["version"]
    assert f"version: {project['version']}\n" in (ROOT / "CITATION.cff").read_text()
