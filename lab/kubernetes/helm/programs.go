// SPDX-License-Identifier: Apache-2.0

//go:build programs

// Package helm names the program that renders the chart in checks, so that go.sum has its modules.
package helm

import _ "helm.sh/helm/v3/cmd/helm"
