# SPDX-License-Identifier: Apache-2.0
"""Annotations of pods that ilanet reads; for the CNI logic, the controller and the operator's command."""

KEEP_ADDRESS = "ilanet.io/keep-address"
"""'true': the next pod of this namespace and name gets the same address, on any node."""

ADDRESS = "ilanet.io/address"
"""The address that the pod must have: one that its namespace holds, and that no pod has now."""

ENFORCES = "ilanet.io/enforces"
"""Label of a pod in ilanet's own namespace that does this for its node; the one value is NETWORK_POLICIES."""

NETWORK_POLICIES = "network-policies"
