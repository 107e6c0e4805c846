//go:build !rbd || !cgo

package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "monitor: built without the tag rbd or without cgo")
	os.Exit(2)
}
