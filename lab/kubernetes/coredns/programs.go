// SPDX-License-Identifier: Apache-2.0

//go:build programs

// Package coredns names the program that the test cluster needs, so that go.sum has its modules.
package coredns

import _ "github.com/coredns/coredns"
