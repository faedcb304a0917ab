# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of Identifier-Locator Addressing and the mapping system; used by cni, agent and controller."""
