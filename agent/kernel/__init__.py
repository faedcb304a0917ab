# SPDX-License-Identifier: Apache-2.0
"""The only users of libbpf, netlink, libnftables and /proc/sys; known to the composition root alone."""
