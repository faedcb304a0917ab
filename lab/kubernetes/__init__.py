# SPDX-License-Identifier: Apache-2.0
"""A real Kubernetes on a lab cluster: its programs built from source, control plane, nodes."""
