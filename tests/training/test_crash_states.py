"""A power cut at any moment leaves what was promised: every moment of the writes, every state that it may leave."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys

import jax.numpy as jnp
import pytest
from crash_states import PRELUDE, crash_states, explore, read, record
from file_calls import why_not
from flax import nnx
from training_fixtures import TINY_RUN, made_record, made_summary, records

from seanet_jax.data import DATASETS
from seanet_jax.durable import leftovers
from seanet_jax.inference.trained import saved_network
from seanet_jax.models import PRESETS, SEANet, SEANetConfig, from_pretrained
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run_folder import RunFolder

pytestmark = pytest.mark.skipif(bool(why_not()), reason=str(why_not()))

# Each leaves out one of the synchronizations of a program.
WITHOUT_ONE = """
import itertools
count, real = itertools.count(), os.fsync
os.fsync = lambda descriptor: None if next(count) == {} else real(descriptor)
"""

WRITE = "from seanet_jax.durable import write_whole; mark('nothing'); write_whole(root / 'file', 'new'); mark('saved')"
APPEND = "from seanet_jax.durable import append; mark('nothing'); append(root / 'file', 'new\\n'); mark('saved')"
FILL = """
from seanet_jax.durable import folder_written_whole
mark("nothing")
with folder_written_whole(root / "folder") as folder:
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("new")
    (folder / "link").symlink_to("deep/file")
mark("saved")
"""
MAKE = "from seanet_jax.durable import make_folders; mark('nothing'); make_folders(root / 'a' / 'b'); mark('saved')"


def content(folder):
    """Returns the content of the file; None if there is none. Nothing but unfinished files may be beside it."""
    path = folder / "file"
    assert {*folder.iterdir()} <= {path, *leftovers(path)}
    return path.read_text() if path.exists() else None


def lines(folder):
    """Returns the whole lines of the file, which a reader goes by."""
    found = content(folder)
    return None if found is None else tuple(found.split("\n")[:-1])


def filled(folder):
    path = folder / "folder"
    assert {*folder.iterdir()} <= {path, *leftovers(path)}
    if not path.exists():
        return None
    assert {one.name for one in path.iterdir()} == {"deep", "link"}
    return (path / "link").read_text()


def made(folder):
    return True if (folder / "a" / "b").is_dir() else None


# What is written, what was there, how it is read, what is read before and after, and the number of synchronizations.
WRITES = {
    "new file": (WRITE, None, content, None, "new", 2),
    "file in place of another": (WRITE, "old", content, "old", "new", 2),
    "first line": (APPEND, None, lines, None, ("new",), 2),
    "line": (APPEND, "old\n", lines, ("old",), ("old", "new"), 1),
    "folder": (FILL, None, filled, None, "new", 4),
    "folders": (MAKE, None, made, None, True, 2),
}


def after_all_cuts(root, program, old, look, before, after):
    root.mkdir()
    if old is not None:
        (root / "file").write_text(old)
    # A new file is there before its first line is.
    either = {before, after, ()} if program == APPEND and old is None else {before, after}
    return explore(record(root, program), look, lambda found, marks: found in ({after} if "saved" in marks else either))


# A program, and everything that may be found after it or a part of it, by path.
STATES = {
    "a file is written": (
        "(root / 'a').write_text('long')",
        [{}, {"a": b""}, {"a": b"lo"}, {"a": bytes(4)}, {"a": b"long"}],
    ),
    "a line is appended": (
        "with (root / 'old').open('a') as file: file.write('new')",
        [{"old": b"old"}, {"old": b"oldn"}, {"old": b"old" + bytes(3)}, {"old": b"oldnew"}],
    ),
    "a synchronized file has a name that is not": (
        "with (root / 'a').open('w') as file: file.write('ab'); file.flush(); os.fsync(file.fileno())",
        [{}, {"a": b""}, {"a": b"a"}, {"a": bytes(2)}, {"a": b"ab"}],
    ),
    "a file gets another name": ("(root / 'old').rename(root / 'new')", [{"old": b"old"}, {"new": b"old"}]),
    "a file is deleted": ("(root / 'old').unlink()", [{"old": b"old"}, {}]),
    "a file is moved into a folder": (
        "(root / 'a').mkdir(); (root / 'old').rename(root / 'a' / 'new')",
        # The two folders reach the disk in either order, so the file may have neither name.
        [{"old": b"old"}, {"old": b"old", "a": None}, {"a": None}, {"a": None, "a/new": b"old"}],
    ),
}


@pytest.mark.parametrize("what", STATES)
def test_a_power_cut_leaves_these_states_and_no_others(what, tmp_path):
    program, expected = STATES[what]
    root = tmp_path / "disk"
    root.mkdir()
    if "old" in program:
        (root / "old").write_text("old")
    recorded = record(root, f"mark('start')\n{program}\nmark('end')")
    assert {frozenset(state.tree.items()) for state in crash_states(recorded)} == {
        frozenset(state.items()) for state in expected
    }


def test_a_write_that_is_not_modeled_is_an_error(tmp_path):
    program = "import mmap; (root / 'a').write_text('ab'); file = (root / 'a').open('r+b'); mmap.mmap(file.fileno(), 2)"
    with pytest.raises(ValueError, match="mmap is not modeled"):
        record(tmp_path, program)


@pytest.mark.parametrize("what", WRITES)
def test_a_write_is_there_as_soon_as_it_is_said_to_be_and_until_then_whole_or_not(what, tmp_path):
    program, old, look, before, after, _ = WRITES[what]
    explored = after_all_cuts(tmp_path / "disk", program, old, look, before, after)
    assert explored.broken == []
    assert {before, after} <= explored.found and explored.prefixes >= 4


@pytest.mark.parametrize(("what", "missing"), [(what, n) for what, row in WRITES.items() for n in range(row[-1])])
def test_no_synchronization_is_superfluous(what, missing, tmp_path):
    program, old, look, before, after, _ = WRITES[what]
    explored = after_all_cuts(tmp_path / "disk", WITHOUT_ONE.format(missing) + program, old, look, before, after)
    assert explored.broken != []


RECORDS = """
import dataclasses
from training_fixtures import TINY, TINY_RUN, made_dataset, made_record, made_summary
from seanet_jax.training.checkpoint import Checkpoints
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run_folder import RunFolder
config = TrainConfig(out=root / "run", **TINY_RUN | {"model": "resnet20"})
spec = made_dataset(train=1, test=1).image_spec
folder = RunFolder(config.out)
mark("nothing")
with folder.locked(config):
    folder.open(config, TINY, spec, "sha", {}, step=0, history=[])
    mark("begun")
    for epoch in (1, 2):
        folder.append(made_record(epoch))
        mark(epoch)
    folder.write_summary(made_summary([made_record(2)]))
    mark("finished")
resumed = dataclasses.replace(config, resume=True, epochs=4)
with folder.locked(resumed):
    mark("resuming")
    folder.open(resumed, TINY, spec, "sha", {}, step=4, history=[made_record(1)])
    mark("resumed")
    folder.append(made_record(2))
    mark("again")
"""
# For each promise, the numbers of resumes and of records, and whether there is a summary of the last of them.
RECORDS_AFTER = {
    "nothing": {(None, 0, False), (0, 0, False)},
    "begun": {(0, 0, False), (0, 1, False)},
    "1": {(0, 1, False), (0, 2, False)},
    "2": {(0, 2, False), (0, 2, True)},
    "finished": {(0, 2, True)},
    "resuming": {(0, 2, True), (1, 2, True), (1, 1, False)},
    "resumed": {(1, 1, False), (1, 2, True)},
    "again": {(1, 2, True)},
}


def run_files(folder):
    """Returns how often the run was resumed, how many epochs it recorded, and whether it has a summary."""
    config = TrainConfig(out=folder / "run", **TINY_RUN | {"model": "resnet20"})
    run = RunFolder(config.out)
    if not (run.path / "config.json").exists():
        run.check(config)  # a run may start here
        return None, 0, False
    run.check(dataclasses.replace(config, resume=True, epochs=4))
    has_records = (run.path / "metrics.jsonl").exists()
    records = run.read_records() if has_records else []
    assert records == [made_record(epoch) for epoch in range(1, len(records) + 1)]
    summary = run.read_summary()
    assert summary in (None, made_summary([made_record(2)]))
    return len(run.read().resumed), len(records), summary is not None


@pytest.mark.slow
def test_records_and_summary_are_there_as_soon_as_they_are_written_and_never_a_part_of_one(tmp_path):
    root = tmp_path / "disk"
    root.mkdir()
    explored = explore(record(root, RECORDS), run_files, lambda found, marks: found in RECORDS_AFTER[marks[-1]])
    assert explored.broken == []
    assert explored.found == set.union(*RECORDS_AFTER.values())


SAVE = """
import json
import jax.numpy as jnp
from seanet_jax.training.checkpoint import Checkpoints
accuracies, saves, done = json.loads(sys.argv[2])
if done:
    mark(done - 1)
with Checkpoints(root) as checkpoints:
    for number, (step, again) in list(enumerate(saves))[done:]:
        history = [{"epoch": n, "step": n, "test_accuracy": accuracies[n - 1]} for n in range(1, step + 1)]
        state = {"step": jnp.int32(step), "weights": jnp.arange(3.0) + step + again / 2}
        checkpoints.save(step, state, history)
        if number >= len(saves) - 2:
            checkpoints.wait()
            mark(number)
"""
# The accuracies of the epochs, and what is saved: the step, and how often a checkpoint of this step was saved before.
SAVES = {
    "a third, which is the best, in place of the first": ([0.1, 0.2, 0.3], [(1, 0), (2, 0), (3, 0)]),
    "a fourth, where the second is the best": ([0.1, 0.9, 0.3, 0.4], [(1, 0), (2, 0), (3, 0), (4, 0)]),
    "a second of the same step": ([0.1, 0.2], [(1, 0), (2, 0), (2, 1)]),
}


@pytest.fixture
def read_once(monkeypatch):
    """Lets Orbax read checkpoints of the same files only once, of which hundreds of states hold only a few."""
    real, known = Checkpoints._read, {}

    def once(checkpoints, path, abstract):
        files = frozenset(read(path).items())
        if files not in known:
            try:
                known[files] = real(checkpoints, path, abstract)
            except Exception as error:
                known[files] = error
        if isinstance(known[files], Exception):
            raise known[files]
        return known[files]

    monkeypatch.setattr(Checkpoints, "_read", once)


def as_earlier_version(checkpoints, best):
    """Turns checkpoints into those that version 0.1.0 wrote."""
    for path in list(checkpoints.iterdir()):
        file = path / "history" / "metadata"
        file.write_text(json.dumps(json.loads(file.read_text()) | json.loads((path / "complete").read_text())))
        (path / "complete").unlink()
        (checkpoints / "latest").mkdir(exist_ok=True)
        shutil.move(path, checkpoints / "latest")
    shutil.copytree(checkpoints / "latest" / str(best), checkpoints / "best" / str(best))


@pytest.mark.slow
@pytest.mark.parametrize(("what", "earlier"), [*((what, False) for what in SAVES), (next(iter(SAVES)), True)])
def test_a_checkpoint_that_was_saved_is_there_and_intact_or_a_newer_one(what, earlier, read_once, tmp_path, capfd):
    accuracies, saves = SAVES[what]
    template = {"step": jnp.int32(0), "weights": jnp.zeros(3)}
    went_on = set()

    def restored(folder):
        """Returns the number of the newest checkpoint."""
        with Checkpoints(folder) as checkpoints:
            state, history = checkpoints.restore_latest(template)
            best = checkpoints.restore_best(template)[0]
            step, again = int(state["step"]), 2 * (float(state["weights"][0]) - int(state["step"]))
            assert state["weights"].tolist() == [n + step + again / 2 for n in range(3)]
            assert [record["test_accuracy"] for record in history] == accuracies[:step]
            assert int(best["step"]) == 1 + accuracies.index(max(accuracies[:step]))
            # Whatever else is there, a run can go on from here.
            names = frozenset(re.sub("[0-9a-f]{16}", "", str(path.name)) for path in folder.glob("checkpoints/*"))
            if names not in went_on:
                went_on.add(names)
                checkpoints.save(step + 1, {**state, "step": jnp.int32(step + 1)}, [])
                assert int(checkpoints.restore_latest(template)[0]["step"]) == step + 1
        return saves.index((step, again))

    def allowed(found, marks):
        return found in range(int(marks[-1]), len(saves))

    root = tmp_path / "disk"
    root.mkdir()
    done = 0
    if earlier:
        done = len(saves) - 1
        subprocess.run(
            [sys.executable, "-c", PRELUDE + SAVE, root, json.dumps([accuracies, saves[:done], 0])], check=True
        )
        as_earlier_version(root / "checkpoints", best=1 + accuracies.index(max(accuracies[:done])))
    explored = explore(record(root, SAVE, json.dumps([accuracies, saves, done])), restored, allowed)
    assert explored.broken == []
    assert explored.found == {len(saves) - 2, len(saves) - 1}
    assert len(went_on) > 2
    capfd.readouterr()  # warnings of older checkpoints that are being deleted


SMALL = SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4)

# Each writes into the folder that holds ``weights``, of a network of the digits data set, and ``run``.
OUTPUTS = {
    "weights": """
from seanet_jax.models import from_pretrained
model = from_pretrained(root / "weights")
mark("nothing")
model.save_pretrained(root / "new" / "weights")
""",
    "artifact": """
from seanet_jax.inference.stablehlo import write
mark("nothing")
write(root / "weights", root / "network.stablehlo")
""",
    "contact sheet": """
from PIL import Image
from seanet_jax.commands import predict
Image.new("RGB", (8, 8)).save(root / "image.png")
mark("nothing")
sys.argv = ["predict", str(root / "weights"), str(root / "image.png"), "--sheet", str(root / "new" / "sheet.png")]
predict.run()
""",
    "evaluation": """
from training_fixtures import made_dataset, small
from seanet_jax.inference.evaluation import evaluate
mark("nothing")
with small(made_dataset()):
    evaluate(root / "run")
""",
    "converted run": """
from seanet_jax.inference.conversion import convert_to_run
from seanet_jax.training.config import TrainConfig
mark("nothing")
convert_to_run(root / "weights", root / "new" / "run", TrainConfig(dataset="digits", batch_size=64))
""",
    "converted weights": """
from training_fixtures import made_dataset, small
from seanet_jax.inference.conversion import convert_to_weights
mark("nothing")
with small(made_dataset()):
    convert_to_weights(root / "run", root / "new" / "weights")
""",
    "converted state dict": """
from seanet_jax.inference.conversion import convert_to_pytorch
mark("nothing")
convert_to_pytorch(root / "weights", root / "new" / "network.pth")
""",
}


def files(folder):
    """Returns the paths and SHA-256s of the files in a folder, without unfinished ones and the image to predict."""
    return frozenset(
        (name, hashlib.sha256(content).hexdigest())
        for name, content in read(folder).items()
        if isinstance(content, bytes) and name != "image.png" and not re.search("(^|/)[.][^/]*[.]tmp(/|$)", name)
    )


@pytest.mark.slow
@pytest.mark.parametrize("what", OUTPUTS)
def test_each_file_that_a_command_writes_is_there_when_it_ends_and_before_it_whole_or_not(
    what, tiny, in_peace, tmp_path
):
    if what == "converted state dict":
        pytest.importorskip("torch")
    root = tmp_path / "disk"
    shutil.copytree(in_peace().out, root / "run")
    spec = DATASETS["digits"].image_spec
    # A run is that of a preset.
    config = PRESETS["resnet20"] if what == "converted run" else SMALL
    SEANet(dataclasses.replace(config, num_classes=spec.num_classes), rngs=nnx.Rngs(0)).save_pretrained(
        root / "weights", spec
    )
    before = files(root)
    recorded = record(root, OUTPUTS[what] + "\nmark('saved')\n")
    after = files(root)
    # A folder that is converted gets its name when it is complete.
    whole = what.startswith("converted")

    def allowed(found, marks):
        if "saved" in marks:
            return found == after
        return found in (before, after) if whole else before <= found <= after

    explored = explore(recorded, files, allowed)
    assert explored.broken == []
    assert len(after) > len(before) and {before, after} <= explored.found


@pytest.mark.slow
def test_weights_that_replace_others_are_read_with_their_own_config(tmp_path):
    replace = """
from flax import nnx
from seanet_jax.models import SEANet, SEANetConfig
model = SEANet(SEANetConfig(stage_sizes=(1,), widths=(8,), stem_width=4, num_classes=3), rngs=nnx.Rngs(1))
mark("nothing")
model.save_pretrained(root)
mark("saved")
"""
    root = tmp_path / "disk"
    SEANet(dataclasses.replace(SMALL, num_classes=10), rngs=nnx.Rngs(0)).save_pretrained(root)
    explored = explore(
        record(root, replace),
        lambda folder: from_pretrained(folder).config.num_classes,
        lambda found, marks: found == 3 or (found == 10 and marks[-1] == "nothing"),
    )
    assert explored.broken == [] and explored.found == {3, 10}


END_OF_A_RUN = """
import training_fixtures
from training_fixtures import TINY_RUN, made_dataset, small
from seanet_jax.models import SEANetConfig
from seanet_jax.training.config import TrainConfig
from seanet_jax.training.run import fit
from seanet_jax.training.run_folder import RunFolder
training_fixtures.TINY = SEANetConfig(stage_sizes=(1,), widths=(4,), stem_width=4, reduction=4, aggregate_factor=2)
append = RunFolder.append
def append_and_mark(folder, record):
    append(folder, record)
    if record["epoch"] == 3:
        mark("recorded")
RunFolder.append = append_and_mark
with small(made_dataset()):
    fit(TrainConfig(out=root / "run", **TINY_RUN))
mark("finished")
"""


@pytest.mark.slow
def test_the_last_epoch_of_a_run_leaves_its_record_and_a_checkpoint_to_go_on_from(tiny, read_once, tmp_path, capfd):
    root = tmp_path / "disk"
    root.mkdir()
    recorded = record(root, END_OF_A_RUN)
    _, template = saved_network(root / "run")
    whole, resumed = records(root / "run"), tiny(resume=True)

    def epochs(folder):
        """Returns the number of epochs in the newest checkpoint and of those recorded, and whether the run ended."""
        run = RunFolder(folder / "run")
        run.check(resumed)
        with Checkpoints(run.path) as checkpoints:
            state, history = checkpoints.restore_latest(template)
        assert int(state.step) == history[-1]["step"] == whole[len(history) - 1]["step"]
        assert records(run.path) == whole[: len(records(run.path))]
        return len(history), len(records(run.path)), run.read_summary() is not None

    explored = explore(
        recorded,
        epochs,
        lambda found, marks: found in {(3, 3, True)} | ({(2, 3, False), (3, 3, False)} if len(marks) == 1 else set()),
    )
    assert explored.broken == []
    assert explored.found == {(2, 3, False), (3, 3, False), (3, 3, True)}
    capfd.readouterr()  # warnings of older checkpoints that are being deleted
