# SPDX-License-Identifier: Apache-2.0
"""What goes wrong between here and the Hub, as one kind of error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def answered(repo_id: str) -> Iterator[None]:
    """Whatever the network raises within becomes an OSError of one line, which names the repository.

    The Hub's own refusals (`HfHubHTTPError`: gated, not found, ...) are OSErrors already, and pass as they are.
    """
    from huggingface_hub.errors import HfHubHTTPError

    # The base of everything that the client's transport raises; which package has it depends on the client's version.
    failed: Any = next(base for base in HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    try:
        yield
    except OSError:
        raise
    except failed as error:  # the connection was dropped, timed out, or went in a circle of redirections
        told = " ".join(str(error).split()) or "no reason was given"
        raise OSError(f"{repo_id} could not be read from the Hub ({type(error).__name__}: {told})") from error
