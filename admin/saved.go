package admin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/lunar-iscsi/lunar/admin/spec"
)

// A State keeps what was set for the next start: objects by their keys (package journal).
type State interface {
	// Objects returns what the last start left, key by key.
	Objects() map[string][]byte
	// Save makes one change durable, all of it or nothing: set replaces objects or adds them, a nil value removes one. An error says
	// that nothing has changed. Calls at the same time go together.
	Save(set map[string][]byte) error
	// File is where it is, for people.
	File() string
}

// The keys of objects. A target is an object of its own, so that saving one does not grow with the number of others; who is bound
// where is kept with the accounts, since removing one of these changes many targets.
const (
	keySystem   = "system"
	keyPortals  = "portals"
	keyAccounts = "accounts"
	keyTarget   = "target/" // and the TID
)

// savedAccounts is the object of keyAccounts.
type savedAccounts struct {
	Accounts  []spec.Account    `json:"accounts,omitempty"`
	Discovery spec.Auth         `json:"discovery"`
	Bound     map[int]spec.Auth `json:"bound,omitempty"` // by TID
}

func targetKey(tid int) string { return keyTarget + strconv.Itoa(tid) }

// encode writes an object down. It cannot fail for what spec.Check lets through.
func encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, Errorf(Internal, "what was set cannot be written down: %w", err)
	}
	return b, nil
}

// decodeDocument puts saved objects together. A word that this version does not know is refused: what it says would be lost with
// the next change.
func decodeDocument(objects map[string][]byte) (spec.Document, error) {
	var d spec.Document
	var acc savedAccounts
	for key, b := range objects {
		var err error
		switch {
		case key == keySystem:
			err = strict(b, &d.System)
		case key == keyPortals:
			err = strict(b, &d.Portals)
		case key == keyAccounts:
			err = strict(b, &acc)
		case strings.HasPrefix(key, keyTarget):
			var t spec.Target
			if err = strict(b, &t); err == nil && targetKey(t.TID) != key {
				err = fmt.Errorf("it has TID %d", t.TID)
			}
			d.Targets = append(d.Targets, t)
		default:
			err = fmt.Errorf("this lunard knows no such object; a newer one wrote it")
		}
		if err != nil {
			return spec.Document{}, fmt.Errorf("object %q: %w", key, err)
		}
	}
	d.Accounts, d.Discovery = acc.Accounts, acc.Discovery
	slices.SortFunc(d.Targets, func(a, b spec.Target) int { return cmp.Compare(a.TID, b.TID) })
	for i := range d.Targets {
		d.Targets[i].Auth = acc.Bound[d.Targets[i].TID]
	}
	return d, d.Check()
}

func strict(b []byte, v any) error {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	return dec.Decode(v)
}

// save makes a change durable. Nothing is lost where there is nothing that saves.
func (m *Manager) save(set map[string][]byte) error {
	if m.cfg.State == nil || len(set) == 0 {
		return nil
	}
	if err := m.cfg.State.Save(set); err != nil {
		return &Error{Code: SaveFailed, Text: "the change could not be saved and was not made", Err: err}
	}
	return nil
}
