# SPDX-License-Identifier: Apache-2.0
"""The gRPC interface between agent and controller: .proto files and generated stubs, nothing else."""
