//go:build !e2e

package tgt

const long = false
