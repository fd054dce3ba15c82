# SPDX-License-Identifier: Apache-2.0
"""Everything between the code and the Hugging Face Hub."""
