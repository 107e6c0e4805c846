// Package volumes is an engine of volumes in memory, whose driver can everything that a driver can with volumes, slowly, badly or not at all if a test
// says so: for tests of what administers volumes.
//
// It keeps an eye on whoever calls: what the contract of backstore.Volumes rules out (a volume deleted while it is open, two things done with it
// at once) is remembered as a wrong (Wrongs).
package volumes
