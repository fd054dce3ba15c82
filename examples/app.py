# SPDX-License-Identifier: Apache-2.0
"""The web demo, as the `app.py` of a Hugging Face Space (docs/demo.md): `SHOW1_MODEL` names another cascade."""

import os

from diffusers_show1.demo import launch


if __name__ == "__main__":
    launch(
        model=os.environ.get("SHOW1_MODEL", "tiny"),
        host=os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1"),  # a Space sets it
        port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
    )
