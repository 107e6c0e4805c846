// Package adminchaos tests the admin service (admin.Manager, with its journal and the server below it) with everything at once: several
// administrators make, change, drain and remove the same targets, LUNs, accounts and portals, in any order, while initiators log in, read,
// write, log out, and vanish.
//
// What must hold:
//
//   - Every call ends in time, with success or with an error that its kind of call may have here.
//   - The document is what the calls say (model): what each field is, is what some call made it that no later call has replaced.
//   - What initiators read is what test/history allows, per volume; a number that comes to mean another volume says so first, by a unit attention.
//   - The journal, read by another manager, gives the same document.
//   - Every target can be removed, made anew and logged in to; then nothing is left: sessions, buffers, stores, descriptors, goroutines.
//
// LUNAR_CHAOS_SEED=N does again what a seed asked for; the timing is another. With the build tag e2e it goes on for longer.
//
// It promises nothing to programs outside this module.
package adminchaos
