// Package rbd is lunard with the driver for Ceph from outside: how tgt's tools name an image, what a restart after a crash costs, and what a
// lunard without the driver says. What all engines have in common is in test/engines, the driver's own tests are with the driver.
//
// It promises nothing to programs outside this module.
package rbd
