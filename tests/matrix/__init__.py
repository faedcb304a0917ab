# SPDX-License-Identifier: Apache-2.0
"""A conformance suite for CNI plugins: rows, ports and a runner; needs nothing of ilanet's packages, only the lab's."""
