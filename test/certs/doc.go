// Package certs makes certificates for tests of mutual TLS.
package certs
