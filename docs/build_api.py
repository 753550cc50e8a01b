"""Makes docs/api.md from the docstrings.

python docs/build_api.py
"""

from collections.abc import Iterator
from pathlib import Path

import griffe

ROOT = Path(__file__).parent.parent

# In the order of the page: what a reader needs first, first. A module's public names are its own, or what its
# __init__ offers.
MODULES = (
    *("functional", "convolution", "capsules", "transport", "modules"),
    *("models", "models.network", "models.seanet", "models.encapnet", "models.presets", "models.families"),
    *("scores", "image_spec", "trained"),
    *("convert", "models.pytorch", "answers", "image_file", "measures", "evaluation", "fold", "stablehlo"),
    *("train", "config", "data", "data.dataset", "data.augment", "recipes", "step", "errors"),
)

HEAD = """# API

Made from the docstrings by `python docs/build_api.py`; `tests/test_api_page.py` fails where it is out of date. What is
not here is not public, and may change.
"""


def main() -> None:
    """Writes the page."""
    (ROOT / "docs" / "api.md").write_text(page())


def page() -> str:
    """The page, as it should be."""
    package = griffe.load(
        "seanet_jax", search_paths=[ROOT], docstring_parser="google", docstring_options={"warnings": False}
    )
    parts = [HEAD]
    for name in MODULES:
        module = package[name]
        parts.append(f"## `seanet_jax.{name}`\n\n{_prose(module)}")
        parts += [_entry(member) for member in _public(module)]
    return "\n".join(parts)


def _public(module: griffe.Module | griffe.Class) -> Iterator[griffe.Class | griffe.Function]:
    """Functions and classes that are defined here and documented, in the order of the file."""
    for name, member in module.members.items():
        is_public = name == "__call__" or not name.startswith("_")
        is_documented = isinstance(member, griffe.Class | griffe.Function) and member.docstring is not None
        if is_public and is_documented and name != "main":
            yield member


def _entry(member: griffe.Class | griffe.Function, *, of: str = "") -> str:
    """A class with its methods, or a function."""
    name = f"{of}.{member.name}" if of else member.name
    parts = [f"{'####' if of else '###'} `{name}`\n", _signature(member), _prose(member)]
    if isinstance(member, griffe.Class):
        parts.append(_fields(member))
        parts += [_entry(method, of=member.name) for method in _public(member)]
    return "\n".join(part for part in parts if part)


def _signature(member: griffe.Class | griffe.Function) -> str:
    if "property" in member.labels:
        return f"```\n{member.name}: {member.annotation}\n```\n"
    # What a dataclass or a tuple takes are its attributes, which are listed.
    if isinstance(member, griffe.Class) and ("dataclass" in member.labels or "__init__" not in member.members):
        return ""
    shown = member.signature()
    return f"```\n{shown}\n```\n"


def _fields(member: griffe.Class) -> str:
    """Those of a dataclass that are documented one by one."""
    fields = [field for field in member.attributes.values() if field.docstring is not None and field.annotation]
    items = [
        f"- `{field.name}: {field.annotation} = {field.value}`: {_one_line(field.docstring.value)}" for field in fields
    ]
    return "\n".join(["**Fields**\n", *items]) + "\n" if items else ""


def _prose(member: griffe.Object) -> str:
    """A docstring in Markdown."""
    parts: list[str] = []
    for section in member.docstring.parsed if member.docstring is not None else []:
        if section.kind is griffe.DocstringSectionKind.text:
            parts.append(section.value.replace("``", "`") + "\n")
        elif section.kind is griffe.DocstringSectionKind.returns:
            parts += [f"**Returns** {_one_line(item.description)}\n" for item in section.value]
        elif section.kind is griffe.DocstringSectionKind.raises:
            items = [f"- `{item.annotation}`: {_one_line(item.description)}" for item in section.value]
            parts.append("\n".join(["**Raises**\n", *items]) + "\n")
        else:
            items = [f"- `{item.name}`: {_one_line(item.description)}" for item in section.value]
            parts.append("\n".join([f"**{section.kind.value.capitalize()}**\n", *items]) + "\n")
    return "\n".join(parts)


def _one_line(text: str) -> str:
    return " ".join(text.replace("``", "`").split())


if __name__ == "__main__":
    main()
