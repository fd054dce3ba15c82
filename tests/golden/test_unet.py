# SPDX-License-Identifier: Apache-2.0
"""The video UNet against single forward passes of the official code, in both dialects."""

import json

import pytest
import torch

from diffusers_show1 import Show1UNet3DConditionModel

from . import cases


TOLERANCE = 1e-4  # the official code differs from itself by up to 1.4e-5 (attention kernels, threads)


@pytest.mark.parametrize("case", ["unet_base", "unet_interp", "unet_sr1", "unet_latent", "unet_sr2"])
def test_forward(case):
    folder = cases.find(case)
    if folder is None:
        pytest.skip(f"{case} is not in this clone (see README.md)")
    unet = Show1UNet3DConditionModel.from_config(json.loads((folder / "config.json").read_text())).eval()
    unet.load_state_dict(cases.state_dict(case))
    meta, inputs, outputs = cases.meta(case), cases.arrays(case, "inputs"), cases.arrays(case, "outputs")
    assert sum(p.numel() for p in unet.parameters()) == meta["figures"]["params"]

    for call, arguments in meta["calls"].items():
        timestep = 651 if arguments["timestep"] == "int 651" else inputs["timestep_vector"]
        labels = inputs["class_labels"] if "class_labels" in arguments else None
        with torch.no_grad():
            sample = unet(inputs[arguments["sample"]], timestep, inputs["encoder_hidden_states"], labels).sample
        assert cases.max_difference(sample, outputs[call]) < TOLERANCE, call


def test_the_cases_can_fail():
    """Turning one head assignment round moves the output far beyond the tolerance."""
    config = json.loads((cases.find("unet_interp") / "config.json").read_text())
    unet = Show1UNet3DConditionModel.from_config(config).eval()
    unet.load_state_dict(cases.state_dict("unet_interp"))
    for module in unet.modules():
        if type(module).__name__ == "AddedKVAttention":
            module.heads = 2 * module.heads
    inputs, outputs = cases.arrays("unet_interp", "inputs"), cases.arrays("unet_interp", "outputs")
    with torch.no_grad():
        sample = unet(inputs["sample"], 651, inputs["encoder_hidden_states"]).sample
    assert cases.max_difference(sample, outputs["out_scalar"]) > 100 * TOLERANCE
