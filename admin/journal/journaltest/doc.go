// Package journaltest has a folder in memory for tests of what is saved: it can be stopped after any number of file operations, as by
// kill -9 or by a loss of power, and looked at again; and any one of them can be made to fail.
package journaltest
