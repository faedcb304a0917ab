# SPDX-License-Identifier: Apache-2.0
"""What the controller decides, from records read to transactions to write; pure, for controller/service.py."""
