# SPDX-License-Identifier: Apache-2.0
"""The agent's pure core: values and decisions, no I/O; may import ila and nothing of agent.kernel."""
