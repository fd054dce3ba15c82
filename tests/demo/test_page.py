# SPDX-License-Identifier: Apache-2.0
"""The served page without a browser: many at once, the bound of the queue, and what the server refuses."""

import dataclasses
import hashlib
import json
import time
from pathlib import Path

import pytest
import torch

from diffusers_show1.clips.frames import to_uint8
from diffusers_show1.runs.settings import Settings

from .conftest import finish, free_port


gradio_client = pytest.importorskip("gradio_client", reason='needs gradio: pip install ".[demo]"')
httpx = pytest.importorskip("httpx")

CROWD = 50
LONG = Settings("a wait", 0, stop_after="base", stage_options={"base": {"num_inference_steps": 1000}})


@pytest.fixture
def serve():
    """Serves the page of an engine; returns its address."""
    from diffusers_show1.demo.page import open_page

    pages = []

    def go(engine):
        port = free_port()
        pages.append(open_page(engine, "127.0.0.1", port))
        return f"http://127.0.0.1:{port}"

    yield go
    for page in pages:
        page.close()


@pytest.fixture
def served(make_engine, serve):
    """An engine whose queue holds the crowd, and the address of its page."""
    engine = make_engine(limit=CROWD)
    return engine, serve(engine)


def ask(client, prompt, seed, steps=1):
    """Asks for keyframes, as the page's button does."""
    form = {"prompt": prompt, "negative_prompt": "", "seed": seed, "random_seed": False, "stop_after": "base"}
    return client.submit(**form, base_steps=steps, api_name="/generate")


def until(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.long
def test_of_fifty_at_once_none_is_lost_and_none_is_mixed_up(served, tmp_path):
    engine, address = served
    client = gradio_client.Client(address, verbose=False, max_workers=CROWD, download_files=str(tmp_path))
    asked = {(f"a thing of kind {index}", index): None for index in range(CROWD)}
    for prompt, seed in asked:
        asked[prompt, seed] = ask(client, prompt, seed)

    digests = {}
    for (prompt, seed), job in asked.items():
        status, _, _, _, _, _, button, *_ = job.result()
        assert "Done: 2 frames of 12x8" in status
        record = json.loads(Path(button["value"]).read_text(encoding="utf-8"))
        assert (record["settings"]["prompt"], record["settings"]["seed"]) == (prompt, seed)
        digests[prompt, seed] = record["output"]["frames_sha256"]
    assert len({str(path) for path in engine.folder.glob("*/show1.json")}) == CROWD
    assert len(set(digests.values())) == CROWD

    engine.close()  # its pipeline is free now
    for prompt, seed in asked:
        frames = engine.pipe(
            prompt,
            generator=torch.Generator().manual_seed(seed),
            stage_options={"base": {"num_inference_steps": 1}},
            stop_after="base",
            output_type="np",
        ).frames[0]
        assert hashlib.sha256(to_uint8(frames).tobytes()).hexdigest() == digests[prompt, seed], prompt


def test_a_full_queue_is_answered_in_the_page(make_engine, serve):
    engine = make_engine(limit=1)
    address = serve(engine)
    engine.submit(LONG)
    until(lambda: engine.waiting == 0)
    engine.submit(LONG)
    status = ask(gradio_client.Client(address, verbose=False), "one too many", 0).result()[0]
    assert "the queue is full, 1 wait already; try again in a while" in status
    assert engine.waiting == 1


def test_bad_input_starts_nothing_and_html_in_it_stays_text(served):
    engine, address = served
    client = gradio_client.Client(address, verbose=False)
    status = ask(client, "<img src=x onerror=alert(1)>${7*7}{{7*7}}" * 300, 0).result()[0]
    assert "PROMPT must be a text of at most 10000 characters" in status
    assert not {"<img", "${", "{{"} & {status[i : i + n] for n in (2, 4) for i in range(len(status))}
    assert "--steps must be a whole number from 1 to 1000" in ask(client, "a thing", 0, steps=0).result()[0]
    assert not list(engine.folder.glob("*/*"))


def test_cancel_ends_what_its_own_page_asked_for(served):
    engine, address = served
    mine, other = (gradio_client.Client(address, verbose=False) for _ in range(2))
    job = ask(mine, "a thing", 0, steps=1000)
    until(lambda: any("step" in str(output[0]) for output in job.outputs()))
    waits = ask(other, "another thing", 1)
    until(lambda: engine.waiting == 1)
    mine.predict(api_name="/cancel")
    assert "Cancelled." in job.result()[0]
    assert "Done: 2 frames of 12x8, seed 1" in waits.result()[0]


def test_the_server_takes_no_files_fetches_nothing_and_shows_only_results(served, tmp_path):
    engine, address = served
    api = f"{address}/gradio_api"
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    with httpx.Client() as client:
        page = client.get(address)
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert client.post(f"{api}/upload", files={"files": b"x" * 1000}).status_code == 403
        for path in ("https://example.org/", f"{address}/config", str(secret), f"{engine.folder}/../secret.txt"):
            assert client.get(f"{api}/file={path}").status_code in (403, 404), path
        view = finish(engine.submit(dataclasses.replace(LONG, stage_options={})))
        assert client.get(f"{api}/file={view.clips['base']}").content == view.clips["base"].read_bytes()
    assert {path.name for path in engine.folder.rglob("*") if path.is_file()} == {"base.mp4", "show1.json"}


def test_the_page_names_every_stage_and_no_other_host(served):
    engine, address = served
    config = httpx.get(f"{address}/config").json()
    names = {component["props"].get("elem_id") for component in config["components"]}
    assert {*engine.pipe.stage_names, "start", "cancel", "record", "status"} <= names
    assert "fonts.googleapis" not in json.dumps(config)
    assert not config["analytics_enabled"]
