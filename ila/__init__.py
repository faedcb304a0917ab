# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of Identifier-Locator Addressing and the mapping system; used by cni, agent and controller."""

VERSION = "0.1.0"
"""Of all of ilanet: agents and controllers say it; pyproject.toml has it too, and a test compares."""
