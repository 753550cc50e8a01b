"""The same checks run in CI and before a commit, and the files around the code name what exists."""

import re
import shlex
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
CI = (ROOT / ".ci" / "run").read_text()


def hooks():
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert all(hook["language"] == "system" and hook["pass_filenames"] is False for hook in repository["hooks"])
    return repository["hooks"]


def test_pre_commit_checks_what_ci_checks():
    before_commit = {hook["entry"] for hook in hooks() if "stages" not in hook}
    assert before_commit == {line for line in CI.splitlines() if re.match(r"(ruff|mypy)\b", line)}
    assert len(before_commit) == 3


def test_the_quick_tests_run_before_a_push():
    (before_push,) = (hook["entry"] for hook in hooks() if hook.get("stages") == ["pre-push"])
    readme = re.search(r"<!-- test command -->\n```bash\n(.*)\n", (ROOT / "README.md").read_text()).group(1)
    assert readme.split(" && ")[-1] == f".venv/bin/{before_push}"
    assert "<!-- test command -->" in CI


def test_ci_installs_extras_that_exist_and_names_files_that_exist():
    installed = {extra for names in re.findall(r"'\.\[(.*?)\]'", CI) for extra in names.split(",")}
    assert installed and installed <= set(EXTRAS)
    named = re.findall(r"\b(?:tests|\.ci)/[\w/.]+", CI)
    assert named and all((ROOT / path).exists() for path in named)


def test_ci_runs_every_test_that_needs_an_extra():
    """Those that use the fixture ``torch``, and those of modules that say which extra to install."""
    assert "\npython -m pytest -m 'slow or extra'\n" in CI
    table = re.search(r"_WITH_EXTRAS = \((.*?)\n\)", (ROOT / "tests" / "conftest.py").read_text(), re.DOTALL)[1]
    needs = re.compile(rf"^def \w+\(.*\btorch\b|pip install -e '\.\[({'|'.join(EXTRAS.keys() - {'test'})})\]'", re.M)
    modules = {path.stem for path in (ROOT / "tests").rglob("test_*.py") if needs.search(path.read_text())}
    assert "test_optimizer" in modules
    assert modules <= {f"test_{name}" for name in re.findall(r'"(\w+)"', table)} | {"test_checks"}


# Instructions and their words, continued lines joined and comments left out.
def dockerfile():
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.M).replace("\\\n", " ")
    return [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]


def test_the_dockerfile_copies_files_that_its_context_has():
    sent = re.findall(r"^!(.*)$", (ROOT / ".dockerignore").read_text(), flags=re.M)
    copied = [path for word, rest in dockerfile() if word == "COPY" for path in shlex.split(rest)[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / path).exists() for path in sent)
    # What the build of the package reads.
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"pyproject.toml", "seanet_jax", project["readme"], *project["license-files"]} <= set(sent)


def test_the_dockerfile_is_made_of_known_instructions_and_extras():
    instructions = dockerfile()
    assert {word for word, _ in instructions} <= {
        *("ARG", "FROM", "WORKDIR", "COPY", "RUN", "USER", "ENV", "ENTRYPOINT", "CMD"),
    }
    text = (ROOT / "Dockerfile").read_text()
    extras = {extra for names in re.findall(r"EXTRAS=([\w,]+)", text) for extra in names.split(",")}
    assert {"train", "cuda"} <= extras <= set(EXTRAS)
    assert ["ENTRYPOINT", '["seanet"]'] in instructions
    # A variable that is used is an argument, declared before.
    declared = {rest.partition("=")[0] for word, rest in instructions if word == "ARG"}
    assert set(re.findall(r"\$\{(\w+)\}", text)) == declared == {"PYTHON", "EXTRAS"}
