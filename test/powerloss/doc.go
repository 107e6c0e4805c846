// Package powerloss cuts the power of a machine that lunard runs in, under load, and looks what is left on its
// disk; and has that disk fail while lunard makes data durable.
//
// The machine is a guest of QEMU (package guest). Its disk is behind a cache that forgets what was not flushed when
// it is killed, as a disk's own does: so a promise is kept only if lunard asked its kernel, the kernel its file
// system, and that the disk. The load comes from outside, by our own initiator, which knows what was acknowledged.
//
// The tests are long ones (build tag e2e).
package powerloss
