"""Serves an exported network over HTTP: an image in, the most probable classes out.

    .venv/bin/pip install -e '.[serve]'
    .venv/bin/seanet export runs/cifar100-seanet20-seed0 seanet20.stablehlo
    .venv/bin/python examples/serve.py seanet20.stablehlo
    curl --data-binary @photo.jpg http://127.0.0.1:8000/classify

It needs the artifact and the JSON beside it, and no run. POST /classify takes the content of an image file and answers
with JSON. GET / is a page for people, who choose or drop a picture. GET /health says whether the network answers.

Requests that arrive while the network computes wait for it and are then computed together, in one batch. Only this
machine can connect unless --host says otherwise: there is no encryption and no login, so that a server for others
belongs behind one that has both.
"""

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path

import jax
import jinja2
import numpy as np
import uvicorn
from jax import export
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from seanet_jax.data.image_file import ImageSource, MemoryBudget, open_image, preview, to_pixels
from seanet_jax.errors import InputError
from seanet_jax.image_spec import ImageSpec
from seanet_jax.inference.html_page import data_uri, render

MOST_BYTES = 20 * 2**20
# Requests that wait. More are told to come again.
MOST_WAITING = 256
# The network is compiled for these numbers of images when the server starts; a batch is filled up to the next one.
BATCH_SIZES = (1, 4, 16, 64)
SHOWN = 5

PAGE = """<!doctype html>
<html lang="en">
<head>
{% include "page_head.jinja" %}
<title>{{ name }}</title>
</head>
<body>
<header><h1>{{ name }}</h1><p class="soft">A network of {{ classes }} classes. It answers with one of them whatever the
picture shows.</p></header>
<main>
<form class="card" method="post" enctype="multipart/form-data">
<p><label for="image">A picture, chosen or dropped here:</label></p>
<p><input id="image" type="file" name="image" accept="image/*" required></p>
<p><button>Classify</button></p>
</form>
{% if error %}<p role="alert">{{ error }}</p>{% endif %}
{% if predictions %}
<h2>{{ file }}</h2>
<div class="columns">
<figure class="mistakes"><img src="{{ picture | safe }}" alt="the part of the picture that the network sees"></figure>
<div class="card">
<table>
<thead><tr><th scope="col" class="left">class</th><td></td><th scope="col">probability</th></tr></thead>
<tbody>
{% for one in predictions %}
<tr><th scope="row" class="left wrap">{{ one.name }}</th>
<td class="bar"><span style="width: {{ '%.1f' % (100 * one.probability) }}%"></span></td>
<td>{{ '%.1f' % (100 * one.probability) }} %</td></tr>
{% endfor %}
</tbody>
</table>
</div>
</div>
{% endif %}
</main>
</body>
</html>
"""


class Network:
    """An exported network.

    Args:
        artifact: The file that ``seanet export`` wrote. Its description is beside it.

    Raises:
        InputError: If one of both is missing, or they do not belong together.
    """

    def __init__(self, artifact: Path):
        description = artifact.with_name(f"{artifact.name}.json")
        for path in (artifact, description):
            if not path.is_file():
                raise InputError(f"there is no {path}; seanet export writes it")
        about, content = json.loads(description.read_text()), artifact.read_bytes()
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise InputError(f"{description} describes another artifact; export the network again")
        _, height, width, channels = about["input"]["shape"]
        # The artifact normalizes the images itself.
        self.images = ImageSpec(height, width, (0.0,) * channels, (1.0,) * channels, tuple(about["classes"]))
        self.name = artifact.stem
        self._call = jax.jit(export.deserialize(bytearray(content)).call)
        for size in BATCH_SIZES:
            self.classify([np.zeros((height, width, channels), np.uint8)] * size)

    def classify(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Returns the probabilities ``[N, classes]`` of N images, uint8 ``[H, W, C]``."""
        size = next(size for size in BATCH_SIZES if size >= len(pixels))
        batch = np.zeros((size, *pixels[0].shape), np.uint8)
        batch[: len(pixels)] = pixels
        return np.asarray(self._call(batch))[: len(pixels)]


class Server:
    """Answers requests with a network.

    Args:
        network: The network.
    """

    def __init__(self, network: Network):
        self.network = network
        self._waiting: asyncio.Queue[tuple[np.ndarray, asyncio.Future[np.ndarray]]] = asyncio.Queue(MOST_WAITING)
        self._budget = MemoryBudget()

    def app(self) -> Starlette:
        """Returns the application, for any ASGI server."""
        routes = [
            Route("/", self.page, methods=["GET", "POST"]),
            Route("/classify", self.classify, methods=["POST"]),
            Route("/health", self.health),
        ]
        return Starlette(routes=routes, lifespan=self._lifespan)

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(self._compute())
        yield
        task.cancel()

    async def _compute(self) -> None:
        """Computes what waits, one batch after another."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < max(BATCH_SIZES) and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            answers = [answer for _, answer in batch]
            try:
                rows = await asyncio.to_thread(self.network.classify, [pixels for pixels, _ in batch])
            except Exception as error:  # the requests fail, and the server goes on
                for answer in answers:
                    if not answer.done():
                        answer.set_exception(error)
                continue
            for answer, row in zip(answers, rows, strict=True):
                if not answer.done():  # whose client is gone
                    answer.set_result(row)

    def _decode(self, content: bytes) -> tuple[np.ndarray, Image.Image]:
        images = self.network.images
        smallest = max(images.height, images.width)
        with open_image(ImageSource(Path("the image"), content), self._budget, smallest=smallest) as image:
            return to_pixels(image, images), preview(image, images, 160)

    async def _predict(self, content: bytes) -> tuple[list[dict[str, object]], Image.Image]:
        """Returns the most probable classes of an image, and the part of it that the network sees."""
        if self._waiting.full():
            raise HTTPException(503, "too many requests wait; come again in a moment", headers={"Retry-After": "1"})
        try:
            pixels, picture = await asyncio.to_thread(self._decode, content)
        except InputError as error:
            raise HTTPException(415, str(error)) from None
        answer: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        await self._waiting.put((pixels, answer))
        row = await answer
        likeliest = np.argsort(-row, kind="stable")[:SHOWN]
        names = self.network.images.class_names
        return [{"name": names[number], "probability": float(row[number])} for number in likeliest], picture

    async def classify(self, request: Request) -> Response:
        """POST /classify: the content of an image file."""
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > MOST_BYTES:
                raise HTTPException(413, f"the image is longer than {MOST_BYTES:,} bytes")
        predictions, _ = await self._predict(bytes(content))
        return JSONResponse({"predictions": predictions})

    async def health(self, request: Request) -> Response:
        """GET /health: whether the network answers."""
        images = self.network.images
        await asyncio.to_thread(
            self.network.classify, [np.zeros((images.height, images.width, images.channels), np.uint8)]
        )
        return JSONResponse({"network": self.network.name, "classes": images.num_classes})

    async def page(self, request: Request) -> Response:
        """The page at /, and its answer to a picture."""
        shown: dict[str, object] = {"file": "", "predictions": [], "picture": "", "error": ""}
        status = 200
        if request.method == "POST":
            length = request.headers.get("content-length", "")
            if not length.isdigit() or int(length) > MOST_BYTES:
                shown["error"], status = f"The picture may be {MOST_BYTES:,} bytes long at most.", 413
            else:
                async with request.form(max_files=1, max_fields=1) as form:
                    upload = form.get("image")
                    content = b"" if upload is None or isinstance(upload, str) else await upload.read()
                    name = "" if upload is None or isinstance(upload, str) else upload.filename or ""
                try:
                    predictions, picture = await self._predict(content)
                    file = io.BytesIO()
                    picture.save(file, "PNG")
                    uri = data_uri(file.getvalue(), "image/png")
                    shown |= {"file": name[:120], "predictions": predictions, "picture": uri}
                except HTTPException as error:
                    shown["error"], status = error.detail, error.status_code
        classes = self.network.images.num_classes
        loader = jinja2.DictLoader({"page": PAGE})
        return HTMLResponse(render("page", loader=loader, name=self.network.name, classes=classes, **shown), status)


def main() -> None:
    """Reads the arguments and serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="file that seanet export wrote, *.stablehlo")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (default: 8000)")
    arguments = parser.parse_args()
    try:
        server = Server(Network(arguments.artifact))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")
    # On SIGTERM and SIGINT it takes no more requests, answers those that it has, and ends.
    uvicorn.run(server.app(), host=arguments.host, port=arguments.port, access_log=False, timeout_graceful_shutdown=10)


if __name__ == "__main__":
    main()
