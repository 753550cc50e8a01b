import os
import re
import subprocess
from pathlib import Path

import pytest

from seanet_jax import provenance

GIT = ("git", "-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")


def git(folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = [*GIT, "-C", str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "code.py").write_text("1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def asked_anew(folder):
    provenance.checkout.cache_clear()
    return provenance.checkout(folder)


def test_a_checkout_has_a_commit_and_is_clean_or_not(repository, monkeypatch):
    commit = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(repository / "elsewhere"))
    assert asked_anew(repository) == (commit, True)
    (repository / "runs").mkdir()  # what git does not know is no change of the code
    (repository / "runs" / "summary.json").touch()
    assert asked_anew(repository) == (commit, True)
    (repository / "code.py").write_text("2\n")
    assert provenance.checkout(repository) == (commit, True)  # the code that runs is that of the start
    assert asked_anew(repository) == (commit, False)


def test_what_is_no_checkout_has_no_commit(repository, monkeypatch):
    inside = repository / "lib" / "site-packages"
    inside.mkdir(parents=True)
    assert asked_anew(inside) == (None, None)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        assert asked_anew(repository) == (None, None)  # without git
    (repository / ".git" / "HEAD").write_text("damaged")
    assert asked_anew(repository) == (None, None)


def test_the_home_folder_is_not_told(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada.b")
    told = {
        "seanet train --out /home/ada.b/runs --data-dir=/home/ada.b": "seanet train --out ~/runs --data-dir=~",
        "'/home/ada.b/my run'": "'~/my run'",
        "/home/ada.bc /mnt/home/ada.b /home/adaxb": "/home/ada.bc /mnt/home/ada.b /home/adaxb",
    }
    assert {text: provenance.without_home(text) for text in told} == told
    monkeypatch.setenv("HOME", "/")
    assert provenance.without_home("/runs") == "/runs"


def test_what_is_collected_is_text_of_a_line(monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "a\x1b[31mhost")
    found = provenance.collect("2026-05-31T14:03:07Z", "seanet train --out 'a\nb'")
    assert set(found) == set(provenance.Provenance.__annotations__)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["ended"])
    assert "\x1b" not in found["host"] and "\n" not in found["command"]
    assert found["processor"] and found["started"] == "2026-05-31T14:03:07Z"


def test_a_machine_without_a_list_of_processors_tells_their_kind(monkeypatch):
    def missing(path, errors):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert provenance.processor()
