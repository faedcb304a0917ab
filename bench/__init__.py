# SPDX-License-Identifier: Apache-2.0
"""The benches: every number that the README quotes, one command each; tables on screen, JSON in build/bench/."""
