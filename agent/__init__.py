# SPDX-License-Identifier: Apache-2.0
"""The node agent: wires pods, feeds the BPF datapath, follows the mappings; started as `python -m agent`."""
