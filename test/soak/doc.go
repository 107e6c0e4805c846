// Command soak keeps a real lunard busy with random initiators for a while and holds everything that comes back against a history of
// every block (test/history): make soak, or
//
//	go run ./test/soak -time 10m -initiators 8 -seed 1
//
// lunard is started with several targets, each with several disks on files, some behind stores that delay, fail and hang
// (backstore/faulty), one disk behind two targets. Each initiator is a session of its own that sends batches of READ, WRITE, WRITE AND VERIFY, WRITE SAME,
// UNMAP, COMPARE AND WRITE, VERIFY and SYNCHRONIZE CACHE of random places and lengths, and now and then reserves, aborts, resets, cuts its
// connection, logs in beside itself, or logs out. Meanwhile lunard is asked to end, or is killed, and is started again.
//
// What each initiator does, and what is done to lunard, follows from the seed alone, so a failing seed asks the same again; which of two things at
// once comes first does not follow, so a violation that needs a certain timing may need the seed several times. On a violation the history of the
// block is printed, with the seed, and the exit status is 1. At the end lunard must be as it was at the start: descriptors, goroutines and,
// within a bound, memory; no fault of its own may stand in its log.
//
// It knows lunard by its command line, the wire and /proc only.
package main
