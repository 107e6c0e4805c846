package nebd

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
)

// A record is a descriptor in the metafile.
type record struct {
	Name    string `json:"filename"`
	Fd      int32  `json:"fd"`
	Session string `json:"session"`
	Flags   string `json:"openflags"`
}

type records struct {
	Volumes []record `json:"volumes"`
	CRC     *uint32  `json:"crc,omitempty"`
}

// sum is the checksum over the document without it.
func (r records) sum() (uint32, error) {
	r.CRC = nil
	b, err := json.Marshal(r)
	return crc32.ChecksumIEEE(b), err
}

// save writes the metafile. Called with mu held.
func (s *Server) save() error {
	r := records{Volumes: []record{}}
	for _, e := range s.byFd {
		r.Volumes = append(r.Volumes, record{Name: e.name, Fd: e.fd, Flags: string(e.flags)})
	}
	slices.SortFunc(r.Volumes, func(a, b record) int { return int(a.Fd - b.Fd) })
	sum, err := r.sum()
	if err != nil {
		return err
	}
	r.CRC = &sum
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.cfg.Meta+".tmp", b, 0o644); err != nil {
		return err
	}
	return os.Rename(s.cfg.Meta+".tmp", s.cfg.Meta)
}

// load opens what the metafile records, under the same descriptors. What cannot be opened stays closed, and has lost its flags.
func (s *Server) load() error {
	b, err := os.ReadFile(s.cfg.Meta)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var r records
	if err := json.Unmarshal(b, &r); err != nil {
		return fmt.Errorf("%s: %w", s.cfg.Meta, err)
	}
	if sum, err := r.sum(); err != nil || r.CRC == nil || *r.CRC != sum {
		return fmt.Errorf("%s: a wrong checksum", s.cfg.Meta)
	}
	for _, v := range r.Volumes {
		if v.Fd <= 0 {
			return errors.New("a descriptor that is none")
		}
		e := &entity{name: v.Name, fd: v.Fd}
		_ = e.open(s.cfg.Pool, flags(v.Flags)) // see above
		s.byName[v.Name], s.byFd[v.Fd] = e, e
		s.lastFd = max(s.lastFd, v.Fd)
	}
	return nil
}
