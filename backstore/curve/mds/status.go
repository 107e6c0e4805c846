package mds

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/lunar-iscsi/lunar/backstore/curve/brpc"
)

// A Status is how a call ended at the server.
type Status int32

// Statuses.
const (
	OK             Status = 0
	Exists         Status = 101
	NotExist       Status = 102
	NotDirectory   Status = 103
	ParaError      Status = 104
	Shrink         Status = 105
	ExtendUnit     Status = 106
	DirNotExist    Status = 109
	NotSupported   Status = 110
	OwnerAuthFail  Status = 111
	DirNotEmpty    Status = 112
	UnderSnapshot  Status = 120
	Occupied       Status = 126
	IDNotMatch     Status = 130
	Deleting       Status = 131
	Length         Status = 132
	BeingCloned    Status = 133
	SnapshotFrozen Status = 135
	RecoverMeta    Status = 138
	RecoverError   Status = 139
	NoPoolset      Status = 141
	StatusInvalid  Status = 142
	StorageError   Status = 501
	InternalError  Status = 502
)

func (s Status) String() string {
	for _, t := range []struct {
		s    Status
		text string
	}{
		{Exists, "it exists already"}, {NotExist, "it does not exist"}, {NotDirectory, "it is not a directory"}, {ParaError, "a parameter is wrong"}, {Shrink, "a volume does not shrink"},
		{ExtendUnit, "the size is not in whole segments"}, {DirNotExist, "its directory does not exist"}, {NotSupported, "it is not supported"},
		{OwnerAuthFail, "it belongs to another owner, or the signature is wrong"}, {DirNotEmpty, "the directory is not empty"}, {UnderSnapshot, "it has snapshots"}, {Occupied, "a client has it open"},
		{IDNotMatch, "there is another of that name"}, {Deleting, "it is being deleted"}, {Length, "the size is not supported"},
		{BeingCloned, "it is being cloned"}, {SnapshotFrozen, "snapshots are frozen"}, {RecoverMeta, "it depends on its parent and cannot be restored"},
		{RecoverError, "it cannot be restored"}, {NoPoolset, "there is no such poolset"}, {StatusInvalid, "its state does not allow it"},
		{StorageError, "the metadata store has failed"}, {InternalError, "internal error"},
	} {
		if t.s == s {
			return fmt.Sprintf("%s (status %d)", t.text, s)
		}
	}
	return fmt.Sprintf("status %d", int32(s))
}

// An Error is a status other than OK.
type Error struct {
	Status Status
	Method string
	Path   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s of %s: the metadata server says: %v", e.Method, e.Path, e.Status)
}

// StatusOf returns the status in err's chain; OK: there is none.
func StatusOf(err error) Status {
	var e *Error
	if errors.As(err, &e) {
		return e.Status
	}
	return OK
}

// Info is what a server knows of a volume or directory.
type Info struct {
	ID          uint64
	Name        string // the last of its path
	Dir         bool
	Owner       string
	Size        int64 // bytes
	Created     time.Time
	Status      FileStatus
	Original    string // of what is in the recycle bin: its path before
	CloneSource string // of a clone: what it was made of
	BlockSize   int
}

// A FileStatus is what is done with a volume.
type FileStatus int32

// The statuses that matter here.
const (
	FileCreated FileStatus = 0
	Cloning     FileStatus = 2
	MetaCloned  FileStatus = 3 // a lazy clone, which depends on its parent
	Cloned      FileStatus = 4
)

// maxList bounds what a listing keeps.
const maxList = 100_000

var errAnswer = errors.New("the metadata server's answer is not understood")

// A reply is what the answers have: a status and, as field 2, any number of messages.
type reply struct {
	status  int64
	has     bool
	entries [][]byte
}

func parseReply(b []byte) (r reply, err error) {
	err = brpc.Fields(b, func(f brpc.Field) error {
		switch f.Number {
		case 1:
			if f.Type != protowire.VarintType {
				return errAnswer
			}
			r.status, r.has = int64(f.Value), true
		case 2:
			if f.Type != protowire.BytesType || len(r.entries) == maxList {
				return errAnswer
			}
			r.entries = append(r.entries, f.Bytes)
		}
		return nil
	})
	if err == nil && !r.has {
		err = errAnswer
	}
	return r, err
}

func parseInfo(b []byte) (i Info, err error) {
	err = brpc.Fields(b, func(f brpc.Field) error {
		want := protowire.VarintType
		switch f.Number {
		case 2, 5, 12, 13:
			want = protowire.BytesType
		case 1, 4, 8, 9, 11, 20:
		default:
			return nil
		}
		if f.Type != want {
			return errAnswer
		}
		switch f.Number {
		case 1:
			i.ID = f.Value
		case 2:
			i.Name = string(f.Bytes)
		case 4:
			i.Dir = f.Value == 0
		case 5:
			i.Owner = string(f.Bytes)
		case 8:
			if i.Size = int64(f.Value); i.Size < 0 {
				return errAnswer
			}
		case 9:
			i.Created = time.UnixMicro(int64(f.Value))
		case 11:
			i.Status = FileStatus(f.Value)
		case 12:
			i.Original = string(f.Bytes)
		case 13:
			i.CloneSource = string(f.Bytes)
		case 20:
			i.BlockSize = int(uint32(f.Value))
		}
		return nil
	})
	return i, err
}
