# SPDX-License-Identifier: Apache-2.0
"""The Container Network Interface: what runtimes ask and what they are told; run inside the agent."""
