# SPDX-License-Identifier: Apache-2.0
"""A user: a process of its own, and a Hub with small repositories under the published names."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from ..hub.conftest import if_models, modelscope, published  # noqa: F401
from ..hub.upload_hub import TOKEN, UploadHub
from .running import set_up


@pytest.fixture(scope="session")
def hub():
    """A Hub on this machine, with nothing on it."""
    with UploadHub() as hub:
        yield hub


@pytest.fixture(scope="session")
def models_on_hub(hub, published, if_models, modelscope):  # noqa: F811
    """Every model that a page names, on the Hub: the published layout with tiny networks."""
    for name, folder in published.items():
        hub.add(f"showlab/{name}", folder)
    hub.add("DeepFloyd/IF-I-L-v1.0", if_models["IF-I"])
    hub.add("DeepFloyd/IF-II-L-v1.0", if_models["IF-II"], gated=True)
    hub.add("cerspense/zeroscope_v2_576w", modelscope)


@pytest.fixture(scope="session")
def environment(hub, tmp_path_factory):
    return {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path_factory.mktemp("hub-cache")),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",  # its storage is another service
        "HF_TOKEN": TOKEN,
    }


def process(*arguments):
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), set_up, arguments)


@pytest.fixture(scope="session")
def user(environment):
    """A process like a user's, the same for all pages, since it imports torch only once."""
    with process(environment) as pool:
        yield pool
