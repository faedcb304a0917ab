# SPDX-License-Identifier: Apache-2.0
"""Harm to a whole ilanet under traffic, and the proof that nothing was lost; for bench/faults.py and tests."""
