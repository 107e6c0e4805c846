// Package nebd is a nebd-server for tests: it speaks NEBD as CurveBS's own does, its bad habits included, and has files of one folder for a cluster.
//
//	pool, err := nebd.NewPool(dir)
//	err = pool.Create("/vol", nebd.Volume{Owner: "user", Size: 16 << 20})
//	s, err := nebd.Start(nebd.Config{Pool: pool, Socket: sock, Meta: meta, Died: func(why string) { t.Error(why) }})
//	// cbd:pool//vol_user_?socket=SOCK&lockdir=DIR
//
// What it does as the real one was seen to do:
//
//   - A request that is not in whole blocks kills it: Died is called (the command nebdserver exits as if by SIGABRT), and every connection ends.
//   - One without a length, or that fails (beyond the end, or by Faults), is never answered, unless Config.ReturnErrors is set. It keeps its volume's lock:
//     closing that descriptor then hangs, and so does all I/O on it that comes later; and Stop does not return, so that only Kill helps.
//   - A name has one descriptor, whoever opens it, without a count; opened with other flags it is refused. GetInfo tells of the size at the time of the open.
//   - What sends no heartbeats is closed after a while, and opened again by the next request.
//   - Stop answers what it has got, and everything later with error 2003; Kill does neither, and what is in flight may have been carried out or not. The socket's file
//     stays. The next server on the same Meta has the same descriptors.
//   - A volume that is deleted or replaced while it is open blocks for ever.
//
// # The folder
//
// The test MDS and snapshot server of test/curve work on the same folder, at the same time, as other processes or not:
//
//	POOL/dir/vol          the volume /dir/vol: a sparse file, whose size is the volume's length
//	POOL/dir/.vol.json    {"owner":"user","blocksize":4096} and whatever else the MDS keeps; without it everybody is the owner, and blocks are of 4096 bytes
//
// Directories are directories; names that begin with a dot are nobody's volumes. A server holds a shared flock on the file of each volume that it has open: who gets an exclusive one knows that
// nobody has. A volume is created under another name and then renamed, is extended by truncating its file to more, and deleted by removing or renaming it.
package nebd
