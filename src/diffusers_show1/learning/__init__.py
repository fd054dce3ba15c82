# SPDX-License-Identifier: Apache-2.0
"""What a stage does between a clip and a loss: `objectives`, the options of a training, and the base of its tasks.

Families say here what they train; the engine that trains it (`training`) reads them and names none.
"""
