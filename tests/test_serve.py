"""examples/serve.py as a process of its own, asked by real requests. Needs the extra serve."""

import base64
import concurrent.futures
import contextlib
import html
import http.client
import io
import json
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from data_fixtures import served as serving_folder
from jax import export
from PIL import Image
from predict_fixtures import CONFIG, IMAGES, SPEC
from training_fixtures import settled

from seanet_jax.inference import stablehlo
from seanet_jax.printable import shortened

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
pytest.importorskip("python_multipart")

SCRIPT = Path(__file__).parent.parent / "examples" / "serve.py"


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    model = settled(CONFIG)
    model.classifier.kernel[...] *= 0.1  # for probabilities that are not all 0 and 1
    model.save_pretrained(folder / "weights", SPEC)
    stablehlo.write(folder / "weights", folder / "net.stablehlo")
    return folder / "net.stablehlo"


class Served:
    """A running server."""

    def __init__(self, process, port):
        self.process, self.port = process, port

    def ask(self, method, path, body=None, headers=None):
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            with connection.getresponse() as answer:
                return answer.status, answer.read()


@contextlib.contextmanager
def serving(artifact):
    """A context in which a server runs at a port that it chooses and names."""
    command = [sys.executable, "-W", "error", SCRIPT, artifact, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        said = []
        port = None
        while port is None and (line := process.stderr.readline()):
            said.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                port = int(found[1])
        assert port is not None, "".join(said)
        # A full pipe would stop the server.
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        try:
            yield Served(process, port)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            rest.join()


@pytest.fixture(scope="module")
def server(artifact):
    with serving(artifact) as served:
        yield served


@pytest.fixture(scope="module")
def expected(artifact):
    return np.asarray(jax.jit(export.deserialize(bytearray(artifact.read_bytes())).call)(IMAGES))


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def check(answer, probabilities):
    status, body = answer
    assert status == 200, body
    found = json.loads(body)["predictions"]
    order = np.argsort(-probabilities)
    assert [one["name"] for one in found] == [SPEC.class_names[index] for index in order]
    np.testing.assert_allclose([one["probability"] for one in found], probabilities[order], rtol=1e-4)


def test_every_client_gets_the_answer_for_its_own_image(server, expected):
    numbers = [number % len(IMAGES) for number in range(60)]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda number: server.ask("POST", "/classify", png(IMAGES[number])), numbers))
    for number, answer in zip(numbers, answers, strict=True):
        check(answer, expected[number])


def test_the_benchmark_counts_answers(server):
    measure = runpy.run_path(str(SCRIPT.parent.parent / "benchmarks" / "serving.py"))["measure"]
    line = measure(server.port, 3, 0.5)
    assert re.match(r"3 clients, 0\.5 s: \d+ requests, \d+ a second, median \d+ ms, .*, 0 without an answer$", line), (
        line
    )


def test_it_says_that_it_is_well(server):
    status, body = server.ask("GET", "/health")
    assert (status, json.loads(body)) == (200, {"network": "net", "classes": 3})


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/classify", b"no image", 415, "the image cannot be read as an image"),
        ("POST", "/classify", b"", 415, "the image cannot be read as an image"),
        ("POST", "/classify", bytes(20 * 2**20 + 1), 413, "longer than 20,971,520 bytes"),
        ("GET", "/classify", None, 405, "Method Not Allowed"),
        ("GET", "/../etc/passwd", None, 404, "Not Found"),
    ],
)
def test_what_cannot_be_answered_is_refused(server, method, path, body, status, words):
    found, text = server.ask(method, path, body)
    assert found == status and words in text.decode()


def form(name, content):
    boundary = "boundary"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return {"body": body, "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


def test_a_person_gets_a_page(server, expected):
    status, body = server.ask("GET", "/")
    assert status == 200 and b'<input id="image" type="file"' in body
    status, body = server.ask("POST", "/", **form("<b>photo.png", png(IMAGES[1])))
    page = body.decode()
    assert status == 200 and "<h2>&lt;b&gt;photo.png</h2>" in page and "&lt;dog&gt;" in page
    assert f"{100 * expected[1].max():.1f} %" in page and 'src="data:image/png;base64,' in page
    status, body = server.ask("POST", "/", **form("notes.txt", b"no image"))
    assert status == 415 and b'role="alert">the image cannot be read as an image' in body
    status, body = server.ask("POST", "/", **form("large", bytes(20 * 2**20)))
    assert status == 413 and b"20,971,520 bytes long at most" in body


# The page has no script, so that another one acts for the person: it chooses a file in the page's own form, presses its
# button, and ends with a copy of the answer.
VISITOR = """<!doctype html><title>no answer</title>
<script>
async function visit(frame) {
  const page = frame.contentDocument, input = page.querySelector('input[type=file]');
  if (!page.querySelector('h2')) {
    const bytes = Uint8Array.from(atob('PICTURE'), letter => letter.charCodeAt(0));
    const chosen = new DataTransfer();
    chosen.items.add(new File([bytes], 'photo.png', {type: 'image/png'}));
    input.files = chosen.files;
    page.querySelector('button').click();
  } else {
    const picture = page.querySelector('main img');
    await picture.decode();
    document.title = 'answered';
    document.body.textContent = page.querySelector('main').innerText;
  }
}
</script>
<iframe src="http://127.0.0.1:PORT/" onload="visit(this)"></iframe>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_person_chooses_a_picture_in_a_browser_and_reads_its_classes(server, expected, tmp_path):
    picture = base64.b64encode(png(IMAGES[1])).decode()
    visitor = tmp_path / "visitor.html"
    visitor.write_text(VISITOR.replace("PICTURE", picture).replace("PORT", str(server.port)))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    # A page of another port may act in the frame.
    command += ["--disable-web-security", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom"]
    with serving_folder(tmp_path) as url:
        done = subprocess.run(
            [*command, f"{url}/visitor.html"], capture_output=True, text=True, timeout=120, check=True
        )
    assert "CONSOLE" not in done.stderr
    assert "<title>answered</title>" in done.stdout, done.stdout
    words = " ".join(html.unescape(done.stdout).split())
    most_probable = np.argsort(-expected[1])[:5]
    rows = [f"{shortened(SPEC.class_names[index])} {100 * expected[1][index]:.1f} %" for index in most_probable]
    assert f"photo.png class probability {' '.join(rows)}" in words


def test_a_stop_answers_the_requests_that_it_has(artifact, expected):
    content = png(IMAGES[0])
    with (
        serving(artifact) as served,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection,
    ):
        connection.putrequest("POST", "/classify")
        connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content[:10])
        served.ask("GET", "/health")  # by then the request before it has begun
        served.process.send_signal(signal.SIGTERM)
        connection.send(content[10:])
        with connection.getresponse() as answer:
            check((answer.status, answer.read()), expected[0])
        assert served.process.wait(30) in (0, -signal.SIGTERM)


def test_an_artifact_that_is_not_whole_is_one_sentence(artifact, tmp_path):
    other = shutil.copy(artifact, tmp_path)
    for words in ("there is no ", "describes another artifact; export the network again"):
        done = subprocess.run([sys.executable, SCRIPT, other], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("error: ") and words in done.stderr and done.stderr.count("\n") == 1
        about = json.loads(Path(f"{artifact}.json").read_text()) | {"sha256": "0"}
        Path(f"{other}.json").write_text(json.dumps(about))
