# SPDX-License-Identifier: Apache-2.0
"""A Hub that breaks off, does not answer, or sends in a circle: one line from every door, and no traceback."""

import json
import socket
import time

import pytest

from .fake_hub import FakeHub, _Handler


FAULTS = ("circle", "silence", "half")
PLACES = ("index", "network")


class BrokenHandler(_Handler):
    """All is right, but for one file of a repository called FAULT/PLACE."""

    def resolve(self, repo_id: str, revision: str, path: str) -> None:
        fault, place = repo_id.split("/")
        broken = path == "model_index.json" if place == "index" else path.startswith("unet/")
        if not broken or (fault == "half" and self.command == "HEAD"):
            return super().resolve(repo_id, revision, path)
        if fault == "circle":
            return self.send_body(302, b"", {"Location": self.path})
        if fault == "silence":
            time.sleep(1.5)
        else:
            self.send_response(200)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"half")
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return None


DOORS = """
import contextlib, io, json, time
time.sleep = lambda seconds: None  # the client tries again and again, longer and longer after
from diffusers_show1.hub.convert import convert
from diffusers_show1.hub.recognise import load_cascade, recognise

def door(call):
    try:
        return str(call())
    except Exception as error:
        return {"one line": isinstance(error, (OSError, ValueError)) and len(str(error).splitlines()) == 1,
                "text": f"{type(error).__name__}: {error}"}

def command(model):
    from diffusers_show1 import cli
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = cli.main(["generate", "a car", "-o", OUTPUT + "clip.mp4", "--model", model])
    said = [line for line in told.getvalue().splitlines() if line.startswith("show1:")]
    return {"one line": code == 2 and len(said) == 1 and "Traceback" not in told.getvalue(), "text": "".join(said)}

report = {}
for fault in FAULTS:
    index, network = f"{fault}/index", f"{fault}/network"
    report[fault] = {"recognise": door(lambda: recognise(index))}
    if fault == "silence":
        continue  # each of its tries takes a second
    report[fault] |= {
        "load": door(lambda: load_cascade(index)),
        "generate": command(index),
        "convert": door(lambda: convert(index, OUTPUT + fault)),
        "convert network": door(lambda: convert(network, OUTPUT + fault)),
    }
print("REPORT" + json.dumps(report))
"""


@pytest.fixture(scope="module")
def report(published, process, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    with FakeHub() as hub:
        hub._server.RequestHandlerClass = type("Handler", (BrokenHandler,), {"hub": hub})
        for fault in FAULTS:
            for place in PLACES:
                hub.add(f"{fault}/{place}", published["show-1-base"])
        environment = {"HF_ENDPOINT": hub.url, "HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1"}
        code = f"FAULTS = {FAULTS!r}\nOUTPUT = {str(folder / 'made-')!r}\n{DOORS}"
        done = process(code, folder, **environment)
    line = next((line for line in done.stdout.splitlines() if line.startswith("REPORT")), None)
    assert line is not None, done.stderr[-3000:]
    return json.loads(line[len("REPORT") :])


@pytest.mark.parametrize(
    ("fault", "door"),
    [("silence", "recognise")]
    + [
        (fault, door)
        for fault in ("circle", "half")
        for door in ("recognise", "load", "generate", "convert", "convert network")
    ],
)
def test_faults_are_one_line(report, fault, door):
    said = report[fault][door]
    assert isinstance(said, dict), said
    assert said["one line"], said
    assert f"{fault}/{'network' if door.endswith('network') else 'index'}" in said["text"], said
