"""Real requests to a real server on a free port, which answers what the classifier of the file says."""

import http.client
import io
import json
import threading

import numpy as np
import pytest
from PIL import Image
from support import small_runs

import dgm_jax
from dgm_jax import data
from dgm_jax.errors import UserError
from dgm_jax.memory import file as memory_file
from examples import serve


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The address of a server, and its classifier."""
    finished = small_runs.finished(small_runs.small("dgma"), labels=(0, 1, 2, 3))
    path = tmp_path_factory.mktemp("served") / "classifier.safetensors"
    memory_file.write(path, classifier=dgm_jax.load_classifier(finished.workdir))
    with serve.new_server(str(path), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address, dgm_jax.load_classifier(path)
        server.shutdown()
        thread.join()


def post(address, body, **headers):
    connection = http.client.HTTPConnection(*address, timeout=60)
    connection.request("POST", "/", body, headers)
    response = connection.getresponse()
    assert response.getheader("Content-Type") == "application/json"
    content = json.loads(response.read())
    connection.close()
    return response.status, content


def test_images_get_label_and_probability(served, tmp_path):
    address, classifier = served
    digits = small_runs.digits(16, (0, 1, 2, 3))
    for i, (kind, image) in enumerate(zip(("PNG", "BMP", "JPEG", "TIFF"), digits.x_test[::17])):
        content = io.BytesIO()
        Image.fromarray(image[..., 0]).resize((40, 30)).convert("RGB").save(content, format=kind)
        file = tmp_path / f"{i}.{kind}"
        file.write_bytes(content.getvalue())
        (label,), (odds,) = classifier.predict(data.read_images([file], size=16, channels=1))
        status, answer = post(address, content.getvalue())
        assert status == 200 and answer["label"] == label and answer["name"] == str(label)
        assert answer["probability"] == pytest.approx(np.max(odds), abs=1e-4)


@pytest.mark.parametrize("body, said", [(b"Good morning", "not an image"), (b"", "empty")])
def test_what_is_no_image_is_refused(served, body, said):
    status, answer = post(served[0], body)
    assert status == 400
    assert answer["error"] == (
        f"1 of 1 files cannot be read as images: the body of the request ({said}"
        f"{', or in a format that is not read' if body else ''})."
    )


def test_a_classifier_of_vectors_is_refused():
    vectors = small_runs.finished(small_runs.vectors("dgma", combined=True))
    with pytest.raises(UserError, match="its classifier reads vectors; expected one that reads images"):
        serve.new_server(str(vectors.workdir), 0)


@pytest.mark.parametrize("length", ["20000001", "9" * 5000, "-1", "many"])
def test_bodies_without_a_sensible_length_are_refused_unread(served, length):
    status, answer = post(served[0], b"", **{"Content-Length": length})
    assert status == 400
    assert answer["error"] == "expected an image of at most 20,000,000 bytes, and its Content-Length"
