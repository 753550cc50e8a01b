import sys

import pytest

from seanet_jax import plugins
from seanet_jax.errors import InputError
from seanet_jax.models import EncapNet, SEANet, config_from_json, config_to_json, list_models
from seanet_jax.models.presets import PRESETS
from seanet_jax.training.config import TrainConfig, published_recipe


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package, whose module has the given source, with an entry point of the same name."""
    monkeypatch.setattr(plugins, "_started", False)
    monkeypatch.setattr(plugins, "_failure", None)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, source):
        (tmp_path / f"{name}.py").write_text(source)
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[{plugins.GROUP}]\n{name} = {name}\n")

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_plugin_is_imported_once(install, capsys):
    install("plugin_that_speaks", "print('imported')")
    plugins.load_plugins()
    plugins.load_plugins()
    assert capsys.readouterr().out == "imported\n"


def test_a_plugin_may_look_up_plugins_while_it_is_imported(install):
    install("plugin_that_looks", "from seanet_jax.plugins import load_plugins\nload_plugins()")
    plugins.load_plugins()
    assert "plugin_that_looks" in sys.modules


def test_a_plugin_that_fails_is_named_at_every_call(install):
    install("plugin_that_fails", "import no_such_module")
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"the plugin plugin_that_fails .*No module named 'no_such_module'; repair"
        ):
            plugins.load_plugins()


NETWORK = """
import dataclasses

from seanet_jax.models import SEANet, SEANetConfig, register_family, register_preset


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherConfig(SEANetConfig):
    pass


@register_family
class Other(SEANet):
    model_type = "other"
    config_class = OtherConfig
    recipe = {"epochs": 7}


register_preset("other8", OtherConfig(stage_sizes=(1, 1), widths=(8, 8), stem_width=4, reduction=2))
"""


def test_a_network_of_a_plugin_is_found_by_the_names_of_its_preset_and_its_family(install, monkeypatch):
    def forget():
        """Makes the process one that has loaded no plugin."""
        monkeypatch.setattr("seanet_jax.models.families._FAMILIES", [SEANet, EncapNet])
        monkeypatch.setattr("seanet_jax.models.presets.PRESETS", dict(PRESETS))
        monkeypatch.setattr(plugins, "_started", False)
        sys.modules.pop("plugin_with_a_network", None)

    forget()
    install("plugin_with_a_network", NETWORK)
    config = TrainConfig(model="other8", **published_recipe("other8"))
    assert config.epochs == 7
    saved = config_to_json(config.model_config(num_classes=3))
    assert saved["model_type"] == "other" and list_models() == [*PRESETS, "other8"]
    forget()
    assert type(config_from_json(saved)).__name__ == "OtherConfig"
