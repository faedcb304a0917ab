// SPDX-License-Identifier: Apache-2.0

//go:build programs

// Package policies names the program that enforces NetworkPolicy in the test cluster, so that go.sum has its modules.
package policies

import _ "sigs.k8s.io/kube-network-policies/cmd/kube-network-policies/standard"
