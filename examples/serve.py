"""Serves a classifier over HTTP with Python's standard library: an image in, its class and the probability out.

    python -m dgm_jax export runs/digits-dgma-seed0 classifier.safetensors --what classifier
    python -m examples.serve classifier.safetensors 8000
    curl --data-binary @image.png http://127.0.0.1:8000

prints {"label": 3, "name": "3", "probability": 0.9871}. It needs `pip install ".[data]"`, and listens to this machine
only: for others, put a web server with TLS and passwords in front of it. An image lies in a temporary file while it is
read; set TMPDIR to a file system in memory if it must not touch a disk.
"""

import contextlib
import json
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np

from dgm_jax import data, load_classifier
from dgm_jax.errors import UserError

MOST_BYTES = 20_000_000


def new_server(file: str, port: int) -> ThreadingHTTPServer:
    """A server for the classifier in a file, or in the folder of a run; `serve_forever` makes it answer."""
    classifier = load_classifier(file)
    if classifier.scale is not None:
        raise UserError(f"{file}: its classifier reads vectors; expected one that reads images")
    size, _, channels = classifier.image_shape
    names = dict(zip(classifier.labels, classifier.names))
    classifier.predict(np.zeros((1, size, size, channels), np.uint8))  # Compiles, so that the first answer is fast.

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # Seconds that a client may be silent.

        def do_POST(self):
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length[:20]) > MOST_BYTES:
                self.answer(
                    400, {"error": f"expected an image of at most {MOST_BYTES:,} bytes, and its Content-Length"}
                )
                return
            with tempfile.TemporaryDirectory() as folder:
                image = Path(folder, "image")
                image.write_bytes(self.rfile.read(int(length)))
                try:  # As training reads files: rotated, cut to the central square, and scaled.
                    pixels = data.read_images([image], size=size, channels=channels)
                except data.DataError as error:
                    self.answer(400, {"error": str(error).replace(str(image), "the body of the request")})
                    return
                except UserError as error:  # Pillow is not installed.
                    self.answer(500, {"error": str(error)})
                    return
            (label,), (odds,) = classifier.predict(pixels)
            self.answer(200, {"label": int(label), "name": names[label], "probability": round(float(odds.max()), 4)})

        def answer(self, status, content):
            body = json.dumps(content).encode() + b"\n"
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def main(file: str, port: str = "8000") -> None:
    """Serves until Ctrl-C."""
    with new_server(file, int(port)) as server:
        print(f"http://127.0.0.1:{server.server_port} answers; stop with Ctrl-C")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
