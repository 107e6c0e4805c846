// Package history checks what a disk returns against everything that was done to it.
//
// Each block is a register. Every write puts into each of its blocks a value that no other write has: who wrote it, the how
// many-th of his writes it is, where it belongs, and under which seed. So a block that was read says which write it comes from, and
// a torn, misplaced or foreign block is known by itself (Fill, the layout). What remains is order. A History is told when each
// operation begins and how and when it ends, and says whether the values that were read can be explained by each operation having
// taken effect at one moment between its beginning and its end:
//
//   - acknowledged: at one moment of that time, and never undone;
//   - failed (an error, or taken away by a task management function): in each of its blocks at one moment of that time or not at all,
//     and later never;
//   - lost (no answer came, the connection is gone): at one moment or not at all, until the server is known to be done with it (Settle);
//   - refused (unit attention, reservation conflict, busy): not at all;
//   - a value that was seen stays until it is superseded, whatever became of its write.
//
// The check is exact for blocks that hold values of their own: with unique values, such a history is possible if and only if no two values'
// times overlap (Gibbons and Korach, Testing Shared Memories, SIAM J. Comput. 26, 1997). Zeroes, which many operations can
// have written, are checked as far as they name one. COMPARE AND WRITE is a read and a write with nothing between them, and no two of
// them succeed on one value. With Config.Durable it also knows what a loss of power may not take away.
//
// A copy of the volume that is taken meanwhile, a snapshot, must be of one moment. A Cut holds what each block may have held while it was taken, and
// says whether the blocks of the copy can all be of one moment between its beginning and end: none was written after another's successor was there.
//
// Memory is bounded: a block keeps the values that may still be read, and its last Config.Keep operations for messages.
//
//	h := history.New(history.Config{Seed: 1, Blocks: 2048, BlockSize: 512})
//	w := h.Write(0, 100, 8, false, "WRITE(10)")
//	w.Fill(buf)
//	…                                            // send it
//	err := w.Done(nil)                           // or Failed, Refused, Lost
//	r := h.Read(1, 104, 1, "READ(10)")
//	err = r.Done(data)                           // a *Violation says what was wrong, and the block's history
//
// A History may be used by many goroutines. It knows nothing of SCSI or iSCSI and imports nothing of lunar's, so that tests of every
// layer can use it. It promises nothing to programs outside this module.
package history
