"""The scripts for a machine with a GPU, without one: what they read, write and go on after."""

import hashlib
import importlib
import json
import random
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from training_fixtures import made_record

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    """Makes the scripts importable."""
    for folder in (BENCHMARKS, BENCHMARKS / "gpu"):
        monkeypatch.syspath_prepend(folder)


def script(name):
    return importlib.import_module(name)


def results(folder):
    return json.loads((folder / "results.json").read_text())


# The report


def test_a_part_keeps_what_it_had_and_what_other_parts_had(tmp_path):
    report = script("report")
    first = report.Report(tmp_path, "First")
    first.text("a line")
    first.table(("a", "b"), [(1, "x")])
    first.data(values=[1.5])
    second = report.Report(tmp_path, "Second")
    with second.attempt("the attempt"):
        raise ValueError("a\nreason")
    with second.attempt("the end"):
        raise SystemExit("gone")
    found = results(tmp_path)
    assert found["First"]["data"] == {"values": [1.5]} and found["First"]["failures"] == []
    assert found["Second"]["failures"] == ["the attempt: ValueError: a reason", "the end: SystemExit: gone"]
    text = (tmp_path / "results.md").read_text()
    assert "## First\n\nCard: no GPU" in text and "a line\n\n| a | b |\n| --- | --- |\n| 1 | x |\n" in text
    assert "- failed: the attempt: ValueError: a reason\n- failed: the end: SystemExit: gone\n" in text
    report.Report(tmp_path, "First")
    assert results(tmp_path)["First"]["markdown"] == [] and "Second" in results(tmp_path)


# The command


def test_a_part_that_cannot_start_is_a_failure_of_that_part(tmp_path, monkeypatch):
    measure = script("measure")
    monkeypatch.setitem(measure.PARTS, "check", "no_such_module")
    assert measure.main(["check", "--out", str(tmp_path)]) == 1
    assert results(tmp_path)["check"]["failures"] == [
        "check cannot start: ModuleNotFoundError: No module named 'no_such_module'"
    ]


def test_all_parts_run_whatever_fails(tmp_path, monkeypatch):
    measure = script("measure")
    calls, statuses = [], iter((0, 1, 0, 0, 0, measure.UNFINISHED))

    def run(command, check):
        calls.append(command[2:])
        return SimpleNamespace(returncode=next(statuses))

    monkeypatch.setattr(measure.subprocess, "run", run)
    assert measure.main(["all", "--quick", "--out", str(tmp_path)]) == 1
    assert calls == [[part, "--quick", "--out", str(tmp_path)] for part in measure.PARTS]
    statuses = iter((0, 0, 0, 0, 0, measure.UNFINISHED))
    assert measure.main(["all"]) == measure.UNFINISHED


def test_arguments_that_cannot_work_are_refused(capsys):
    for arguments, message in (
        (["check", "--minutes", "0"], "--minutes must be positive"),
        (["check", "--batch-size", "0"], "--batch-size must be positive"),
        (["nothing"], "invalid choice: 'nothing'"),
    ):
        with pytest.raises(SystemExit) as error:
            script("measure").parse(arguments)
        assert error.value.code == 2 and message in capsys.readouterr().err


def test_documented_commands_are_accepted():
    text = (BENCHMARKS.parent / "docs" / "gpu.md").read_text()
    order = re.findall(r"^\d\. `(.*?)`", text, re.MULTILINE)
    assert [script("measure").parse(words.split())[0] for words in order] == [
        *("check", "throughput", "profile", "resume", "recipe", "flags", "throughput")
    ]


# Implementations that fail


def test_an_implementation_that_fails_is_left_out_and_named():
    interleaved, task = script("interleaved"), script("implementations").Task("seanet20_narrow", 2)
    errors = {}
    found = interleaved.compare(task, ("nothing",), rounds=1, steps=1, on_error=errors.__setitem__)
    assert found == {}
    assert errors["nothing"].line == "nothing ended with status 1: KeyError: 'nothing'"
    with pytest.raises(SystemExit, match="Traceback"):
        interleaved.compare(task, ("nothing",), rounds=1, steps=1)


@pytest.mark.slow
def test_a_flag_that_xla_does_not_know_is_named():
    interleaved, task = script("interleaved"), script("implementations").Task("seanet20_narrow", 2)
    with pytest.raises(interleaved.WorkerError) as error:
        interleaved.Worker("seanet_jax --xla_gpu_no_such_flag=true", task)
    assert "Unknown flag in XLA_FLAGS: --xla_gpu_no_such_flag=true" in error.value.line


def test_an_implementation_that_takes_too_long_is_given_up():
    interleaved, task = script("interleaved"), script("implementations").Task("seanet20_narrow", 2)
    with pytest.raises(interleaved.WorkerError) as error:
        interleaved.Worker("torch", task, patience=0.01)
    assert error.value.line.startswith("torch did not answer within 0 s")


def test_steps_of_a_gpu_are_timed_together_and_waited_for_twice():
    calls = []
    timed = script("implementations").timed
    seconds = timed(lambda: calls.append("step"), 4, lambda: calls.append("wait"))
    assert calls == ["step", "wait", "step", "step", "step", "wait"]
    assert len(seconds) == 4 and seconds[1] == seconds[2] == seconds[3]


# The profile

PROGRAM = """
HloModule jit_step

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %neg.1 = f32[8]{0} negate(%p), metadata={op_name="jit(step)/jvp/neg"}
}

ENTRY %main (a: f32[8]) -> (f32[8], f32[]) {
  %a = f32[8]{0} parameter(0)
  %loop_fusion.2 = f32[8]{0} fusion(%a), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/jvp/mul"}
  %cudnn.3 = (f32[8]{0}, u8[0]{0}) custom-call(%loop_fusion.2), metadata={op_name="jit(step)/transpose(jvp)/conv"}
  ROOT %tuple.4 = (f32[8]{0}, f32[]) tuple(%loop_fusion.2, %a)
}
"""


def test_instructions_are_read_from_the_text_of_a_program():
    found = script("costs").instructions(PROGRAM)
    assert found["loop_fusion.2"] == ("fusion", "jit(step)/jvp/mul")
    assert found["cudnn.3"] == ("custom-call", "jit(step)/transpose(jvp)/conv")
    assert {name: one.opcode for name, one in found.items()} == {
        **{"p": "parameter", "neg.1": "negate", "a": "parameter"},
        **{"loop_fusion.2": "fusion", "cudnn.3": "custom-call", "tuple.4": "tuple"},
    }


def test_costs_are_summed_by_operation_with_the_largest_first(tmp_path):
    costs, report = script("costs"), script("report").Report(tmp_path, "Profile")
    # Two steps of 5 ms: kernels of 1 ms and 3 ms, then one that the program does not know.
    events = [costs.Event(*event) for start in (0, 5e6) for event in (
        ("loop_fusion.2", start, 1e6), ("cudnn.3", start + 1e6, 3e6), ("memset", start + 4.5e6, 5e5)
    )]  # fmt: skip
    costs._program(report, PROGRAM, {"flops": 2e9, "bytes accessed": 1e9})
    costs._times(report, events, costs.instructions(PROGRAM), steps=2)
    data = results(tmp_path)["Profile"]["data"]
    assert data["instructions"] == {"fusion": 1, "custom-call": 1}
    assert (data["milliseconds"], data["kernels"], data["flops"]) == (5, 3, 2e9)
    assert data["groups"] == [
        ["backward", "conv", "3.0000", "66.7", "1"],
        ["forward", "mul", "1.0000", "22.2", "1"],
        ["unknown", "unknown", "0.5000", "11.1", "1"],
    ]
    assert data["operations"][0][:3] == ["cudnn.3", "custom-call", "jit(step)/transpose(jvp)/conv"]


@pytest.mark.filterwarnings("ignore:builtin type event_stats:DeprecationWarning")
def test_the_operations_of_a_real_profile_are_those_of_its_program(tmp_path):
    costs = script("costs")
    step = jax.jit(lambda x: jnp.sin(x @ x).sum()).lower(jnp.ones((64, 64))).compile()
    step(jnp.ones((64, 64))).block_until_ready()
    with jax.profiler.trace(tmp_path):
        for _ in range(3):
            step(jnp.ones((64, 64))).block_until_ready()
    known = costs.instructions(step.as_text())
    found = [event for event in costs.events(tmp_path) if event.operation in known]
    assert found and len(found) % 3 == 0
    assert all(event.duration > 0 for event in found)


def test_a_profile_without_kernels_is_a_failure_with_what_is_known_beside_it(tmp_path):
    costs, report = script("costs"), script("report").Report(tmp_path, "Profile")
    costs._times(report, [], {}, steps=2)
    assert report.failures == ["the profile has no kernels; only what XLA counts of the program is known"]


# The recipe


def options(folder, **fields):
    measure = script("measure")
    _, made = measure.parse(
        ["recipe", "--quick", "--out", str(folder / "out"), "--work", str(folder / "work"), *fields]
    )
    return made


@pytest.mark.parametrize("same", [True, False])
def test_a_resumed_run_is_compared_with_one_in_one_go(same, tmp_path, monkeypatch):
    recipe, trained = script("recipe"), []
    monkeypatch.setattr(recipe, "_train", lambda _, folder, flags, seconds: not trained.append((folder.name, *flags)))
    monkeypatch.setattr(recipe, "_state", lambda folder: "b" if folder.name == "two-goes" and not same else "a")
    assert recipe.resume(options(tmp_path)) == (0 if same else 1)
    several = ("--steps-per-call", "3")
    assert trained == [
        *(("one-go", "--max-steps", "6", *several), ("the-same-again", "--max-steps", "6", *several)),
        ("two-goes", "--max-steps", "3", *several),
        ("two-goes", "--max-steps", "6", *several, "--resume"),
    ]
    different = ["different, parameters, statistics, momentum and losses after 6 steps: two goes, and one go"]
    assert results(tmp_path / "out")["Resume"]["failures"] == ([] if same else different)


def test_a_run_that_the_time_cuts_short_is_not_compared(tmp_path, monkeypatch):
    recipe = script("recipe")
    monkeypatch.setattr(recipe, "_train", lambda *_: False)
    assert recipe.resume(options(tmp_path)) == 1
    (line,) = results(tmp_path / "out")["Resume"]["failures"]
    assert line.endswith("the time was over before the run in one go was finished")


@pytest.mark.slow
def test_a_run_that_is_stopped_in_time_is_to_go_on_and_one_that_fails_says_why(tmp_path, monkeypatch):
    recipe, chosen = script("recipe"), options(tmp_path)
    programs = {
        "finished": "print('done')",
        "stopped": "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); time.sleep(60)",
        "starting": "import time; time.sleep(60)",
        "failed": "import sys; sys.exit('error: no such data set')",
    }
    real = recipe.subprocess.Popen
    monkeypatch.setattr(recipe, "_SAVING", 20)
    found = {}
    for name, program in programs.items():
        command = [sys.executable, "-c", program]
        monkeypatch.setattr(recipe.subprocess, "Popen", lambda _, command=command, **given: real(command, **given))
        try:
            found[name] = recipe._train(chosen, tmp_path / name, [], seconds=21.5)
        except RuntimeError as error:
            found[name] = str(error)
    assert found == {
        **{"finished": True, "stopped": False, "starting": False},
        "failed": "seanet train ended with status 1: error: no such data set",
    }


def test_the_curve_stands_beside_the_published_one(tmp_path):
    recipe, report = script("recipe"), script("report").Report(tmp_path / "out", "Recipe")
    folder = tmp_path / "run"
    folder.mkdir()
    recipe._curve(report, options(tmp_path), folder, finished=False)
    lines = [json.dumps(made_record(epoch)) for epoch in range(1, 22)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    about = {"config": {"epochs": 200}, "model_config": {}, "data_sha256": None, "resumed": []}
    (folder / "config.json").write_text(json.dumps(about))
    recipe._curve(report, options(tmp_path), folder, finished=False)
    text = (tmp_path / "out" / "results.md").read_text()
    assert "No epoch is finished yet." in text and "21 of 200 epochs (to be continued by the same command)" in text
    # Epoch 20 of the published run: published_curves.csv.
    assert "| 20 | 50.00 | 23.99 | 60.00 | 36.50 |" in text
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


# Packing


def test_what_is_packed_in_pieces_comes_out_as_it_was(tmp_path, monkeypatch):
    pack, unpack = script("pack"), script("unpack")
    source, packed = tmp_path / "source", tmp_path / "packed"
    (source / "3.0.2").mkdir(parents=True)
    packed.mkdir()
    for name in ("a", "3.0.2/b"):
        (source / name).write_bytes(random.Random(name).randbytes(25_000))
    monkeypatch.setattr(pack, "PIECE", 10_000)
    pack.in_pieces(packed, "cifar100", source)
    sizes = [path.stat().st_size for path in sorted(packed.iterdir())]
    assert len(sizes) > 5 and set(sizes[:-1]) == {10_000} and 0 < sizes[-1] <= 10_000
    assert unpack.join(packed, "cifar100", tmp_path / "data")
    for name in ("a", "3.0.2/b"):
        assert (tmp_path / "data" / "cifar100" / name).read_bytes() == (source / name).read_bytes()
    assert not unpack.join(packed, "wheels", tmp_path / "data")


def test_a_piece_that_is_missing_or_damaged_is_named_before_anything_is_installed(tmp_path, monkeypatch, capsys):
    unpack = script("unpack")
    monkeypatch.setattr(unpack.subprocess, "run", None)
    files = {name: name.encode() for name in ("whole", "damaged", "missing")}
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (tmp_path / "sha256.json").write_text(json.dumps(sums))
    (tmp_path / "whole").write_bytes(files["whole"])
    (tmp_path / "damaged").write_bytes(b"other")
    assert unpack.main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"error: damaged is not as it was packed; copy it into {tmp_path} again",
        f"error: missing is missing; copy it into {tmp_path}",
    ]
    with pytest.raises(SystemExit):
        unpack.main([str(tmp_path / "nothing")])
    assert "has no sha256.json" in capsys.readouterr().err


def test_only_what_the_machine_lacks_is_packed(tmp_path, monkeypatch, capsys):
    pack, downloaded = script("pack"), []

    def pip(command, *arguments):
        words = list(map(str, arguments))
        if command == "wheel":
            name = "seanet_jax" if words[-1].endswith("source") else words[-1]
            folder = Path(words[words.index("--wheel-dir") + 1])
            (folder / f"{name}-2.3-py3-none-any.whl").write_bytes(b"wheel")
        elif command == "install":
            there = {"jax": "0.11.2", "numpy": "2.5.2"}
            all_of_it = there | {"seanet-jax": "2.3", "promise": "2.3", "tyro": "1.0.17", "array_record": "0.8.6"}
            found = all_of_it if words[-1].endswith("[train]") else there
            listed = [{"metadata": {"name": name, "version": version}} for name, version in found.items()]
            Path(words[words.index("--report") + 1]).write_text(json.dumps({"install": listed}))
            assert "jax==0.11.2" in words and "pillow" in words
        else:
            downloaded.extend(words[words.index("--dest") + 2 :])

    monkeypatch.setattr(pack, "pip", pip)
    images = tmp_path / "data" / "cifar100" / "3.0.2"
    images.mkdir(parents=True)
    (images / "dataset_info.json").write_text("{}")
    out = tmp_path / "pack"
    arguments = ["--out", str(out), "--data-dir", str(tmp_path / "data"), "--there", "pillow"]
    assert pack.main(arguments) == 0
    assert downloaded == ["tyro==1.0.17", "array-record==0.8.6"]
    assert script("unpack").check(out) == []
    assert sorted(path.name for path in out.iterdir()) == ["cifar100.tar.00", "sha256.json", "wheels.tar.00"]
    for wrong, message in (
        (arguments, "is there already; name a new folder"),
        (["--out", str(tmp_path / "other"), "--data-dir", str(out)], "has no CIFAR-100 that TFDS has prepared"),
    ):
        with pytest.raises(SystemExit) as error:
            pack.main(wrong)
        assert error.value.code == 2 and message in capsys.readouterr().err


def test_what_pip_cannot_find_is_said_in_one_line(monkeypatch):
    pack = script("pack")
    failed = SimpleNamespace(returncode=1, stderr="WARNING: x\nERROR: No matching distribution found for promise\n")
    monkeypatch.setattr(pack.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        pack.PackError, match=r"^pip download failed: ERROR: No matching distribution found for promise$"
    ):
        pack.pip("download", "promise")
