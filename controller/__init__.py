# SPDX-License-Identifier: Apache-2.0
"""Assigns identifiers and locators and publishes mappings in etcd; a program, imported by nobody."""
