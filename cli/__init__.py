# SPDX-License-Identifier: Apache-2.0
"""What an operator runs on a laptop with a kubeconfig; talks to the API server only."""
