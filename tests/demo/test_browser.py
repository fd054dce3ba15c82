# SPDX-License-Identifier: Apache-2.0
"""The demo with the tiny cascade, in a real Chromium: what visitors do and see, and where the server writes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffusers_show1.runs.settings import parse_settings

from .conftest import free_port


pytest.importorskip("gradio", reason='needs gradio: pip install ".[demo]"')
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium on the PATH, such as Debian's `chromium`"),
]

EXAMPLE = Path(__file__).parents[2] / "examples" / "app.py"
PATIENCE = 180_000  # milliseconds, on a machine that has other things to do
PROMPT = "a red circle moving right on a white background"
QUICK = {"base-steps": 2, "interpolation-steps": 1, "superres-steps": 1, "refine-steps": 10}
# The app of a Space, which here writes down each address beyond this machine that it talks to.
SERVER = """
import runpy, sys
def seen(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        print("CONNECTS", arguments[1], flush=True)
    if event == "socket.getaddrinfo" and arguments[0] not in ("127.0.0.1", "localhost", None):
        print("LOOKS UP", arguments[0], flush=True)
sys.addaudithook(seen)
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The demo's address; at the end, that it wrote nowhere but in its own folder, and removed that."""
    root = tmp_path_factory.mktemp("demo")
    folders = {name: root / name for name in ("cwd", "home", "tmp")}
    for folder in folders.values():
        folder.mkdir()
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADIO_")}
    environment |= {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port)}  # as on a Space
    environment |= {"HOME": str(folders["home"]), "TMPDIR": str(folders["tmp"]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SERVER, str(EXAMPLE)]
    log = root / "log.txt"
    with log.open("w") as output:
        server = subprocess.Popen(
            command, cwd=folders["cwd"], env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    end = time.monotonic() + PATIENCE / 1000
    while "shows the demo" not in log.read_text():
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.1)
    yield f"http://127.0.0.1:{port}/"
    (work,) = folders["tmp"].iterdir()
    assert work.name.startswith("show1-demo-")
    server.send_signal(signal.SIGTERM)
    assert server.wait(PATIENCE / 1000) == 0, log.read_text()
    assert [path for folder in folders.values() for path in folder.rglob("*") if path.is_file()] == []
    assert not work.exists()
    for word in ("CONNECTS", "LOOKS UP", "Traceback"):
        assert word not in log.read_text()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Opens the demo; at the end, that the page made no error and asked no other host for anything."""
    contexts, outside, errors = [], [], []

    def go(width=1280, height=900):
        contexts.append(browser.new_context(viewport={"width": width, "height": height}))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: None if request.url.startswith(address) else outside.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        page.wait_for_selector("#start")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not [url for url in outside if not url.startswith(("data:", "blob:"))]
    assert not errors


def fill(page, prompt=PROMPT, stage=None, **numbers):
    """Fills the form as a visitor does; `numbers` as in `QUICK`."""
    page.fill("#prompt textarea", prompt)
    if stage is not None:
        page.click("#last input")
        page.get_by_role("option", name=stage).click()
    page.check("#more input")
    for name, value in {**QUICK, **numbers}.items():
        page.fill(f"#{name} input", str(value))
    page.uncheck("#more input")
    assert page.is_hidden("#base-steps")


def says(page, text):
    page.wait_for_function("text => document.querySelector('#status').innerText.includes(text)", arg=text)


def test_a_prompt_becomes_a_playing_video_stage_by_stage(open_page, tmp_path):
    page = open_page()
    fill(page)
    page.click("#start")
    page.wait_for_selector("#base video")
    assert not page.query_selector("#refine video")  # the keyframes come first
    says(page, "Done: 29 frames of 192x128")
    for name, width in {"base": 24, "interpolation": 24, "superres": 96, "refine": 192, "video": 192}.items():
        page.wait_for_function(
            """([name, width]) => {
                const video = document.querySelector(`#${name} video`);
                return video && video.readyState >= 2 && video.videoWidth == width && video.error === null;
            }""",
            arg=[name, width],
        )
    now = page.evaluate("document.querySelector('#video video').currentTime")
    page.wait_for_function("now => document.querySelector('#video video').currentTime != now", arg=now)
    assert not page.evaluate("document.querySelector('#video video').paused")
    with page.expect_download() as download:
        page.click("#record")
    download.value.save_as(tmp_path / "record.json")
    record = json.loads((tmp_path / "record.json").read_text())
    settings = parse_settings(record, "JSON", "it", "a record")
    assert (settings.prompt, settings.model) == (PROMPT, "tiny")
    assert str(settings.seed) == page.input_value("#seed input")  # the drawn one is shown
    assert settings.stage_options["base"]["num_inference_steps"] == 2


def test_the_page_says_what_the_model_knows(open_page):
    page = open_page()
    assert "COLOUR: red, green, blue" in page.inner_text("#prompt")
    assert page.input_value("#prompt textarea") == PROMPT  # a filled example
    fill(page, prompt="Toad practicing karate", stage="Keyframes")
    page.click("#start")
    says(page, "Done: 8 frames of 24x16")
    says(page, "this model does not know 'toad', 'practicing', 'karate'. It knows: a [SIZE] COLOUR")


def test_cancel_and_reload_free_the_worker_and_the_page_goes_on(open_page):
    page = open_page()
    fill(page, **{"base-steps": 1000})
    page.click("#start")
    says(page, "Keyframes: step")
    assert page.is_disabled("#start")
    page.click("#cancel")
    says(page, "Cancelled.")
    page.wait_for_selector("#start:enabled")
    page.click("#start")
    says(page, "Keyframes: step")
    page.reload()  # whoever leaves does not keep the others waiting
    page.wait_for_selector("#start:enabled")
    fill(page, stage="Keyframes")
    page.click("#start")
    says(page, "Done: 8 frames of 24x16")
    page.wait_for_selector("#base video")


def test_bad_input_is_answered_in_the_page(open_page):
    page = open_page()
    page.check("#more input")
    markup = "<img src=x onerror='window.wrong=1'>${window.wrong=1}{{7*7}}" * 200
    for name, value, message in (
        ("prompt textarea", "", "PROMPT must be a text that is not empty, got ''"),
        ("prompt textarea", markup, "10000 characters, got \"<img src=x onerror='window.wrong=1'>${window"),
        ("base-steps input", "0", "--steps must be a whole number from 1 to 1000"),
        ("refine-steps input", "1001", "refine=1001'"),
        ("superres-guidance input", "0.5", "--guidance must be a number of at least 1"),
        ("refine-steps input", "1", "num_inference_steps"),
    ):
        usual = page.input_value(f"#{name}") or PROMPT
        page.fill(f"#{name}", value)
        page.click("#start")
        says(page, message)
        page.wait_for_selector("#status [role=alert]")
        page.wait_for_selector("#start:enabled")
        page.fill(f"#{name}", usual)
    assert page.evaluate("window.wrong") is None
    assert not page.query_selector("#status img")
    assert not page.query_selector("#base video")


def test_a_phone_shows_all_of_it_without_sideways_scrolling(open_page):
    page = open_page(390, 844)
    page.check("#more input")
    page.wait_for_selector("#refine-guidance input")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    for name in ("#prompt", "#start", "#cancel", "#status", "#video", "#refine", "#record", "#examples"):
        box = page.locator(name).bounding_box()
        assert 0 <= box["x"] < box["x"] + box["width"] <= 390, name


def test_an_example_plays_and_fills_the_form(open_page):
    page = open_page()
    page.wait_for_function("document.querySelector('#examples video')?.currentTime > 0")
    page.click("#examples button:has-text('blue triangle')")
    page.wait_for_function("document.querySelector('#prompt textarea').value.startsWith('a blue triangle growing')")
    assert page.input_value("#seed input") == "1"
    assert not page.is_checked("#random input")


def test_a_recipe_puts_its_numbers_into_the_form(open_page):
    page = open_page()
    page.check("#more input")
    usual = page.input_value("#base-steps input")
    page.click("text=fast")
    page.wait_for_function("usual => document.querySelector('#base-steps input').value != usual", arg=usual)
    page.fill("#base-steps input", "3")
    page.click("text=default")
    page.wait_for_function("usual => document.querySelector('#base-steps input').value == usual", arg=usual)
