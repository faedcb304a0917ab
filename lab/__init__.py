# SPDX-License-Identifier: Apache-2.0
"""Several hosts on one machine: namespaces, etcd, authority and processes for demo, tests and bench."""
