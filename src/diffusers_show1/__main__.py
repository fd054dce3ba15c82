# SPDX-License-Identifier: Apache-2.0
"""`python -m diffusers_show1` is the `show1` command."""

import sys

from diffusers_show1.cli import main


sys.exit(main())
