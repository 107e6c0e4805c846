// Package journal keeps objects (keys with values of JSON) in one file, so that a change that was answered is there after a kill -9 and
// after a loss of power.
//
// The file has a header (magic, version) and records behind it. A record has its length, a sequence number that grows by one, and
// two CRC32Cs, of its head and of its payload: JSON of the objects that a change sets and removes. The first record has all objects. A
// change is appended and fsynced before Save returns; what changes at the same time goes in one record. When the file has grown well beyond
// what it keeps, it is written anew: a file beside it, fsync, rename, fsync of the folder; the one before stays beside it under
// another name.
//
// A record that the file does not have to its end, or has in part as zeroes, and that nothing follows, is a change that was under way when
// the machine stopped: it was never answered, and is dropped, with a line in the log. Anything else that does not add up is damage: Open refuses it and
// says what is wrong, where, and what can be done (Options.Recover); nothing is changed by that. A file of a newer version is refused, too.
//
// An append that fails is cut off again. Where that fails too, what a restart would find is not known: the journal then refuses changes until
// it has managed to write itself anew.
//
// The package knows nothing of what the objects are. File operations go through FS, so that tests can make each of them fail, or stop there.
//
//	fs, err := journal.Dir("/var/lib/lunar")
//	j, err := journal.Open(fs, journal.Options{Log: warn})
//	err = j.Save(map[string][]byte{"target/1": []byte(`{"tid":1}`), "target/2": nil})
//
// It promises nothing to programs outside this module.
package journal
