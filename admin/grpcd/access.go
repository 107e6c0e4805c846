package grpcd

import (
	"context"
	"slices"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

type access struct {
	api.UnimplementedAccessServiceServer
	s *Server
}

// ruleName is how a person would name a rule.
func ruleName(r spec.Rule) string {
	switch {
	case r.Address == "":
		return "initiator " + r.Initiator
	case r.Initiator == "":
		return "address " + r.Address
	}
	return "initiator " + r.Initiator + " at address " + r.Address
}

func sameRule(r spec.Rule) func(spec.Rule) bool {
	return func(x spec.Rule) bool { return x.Initiator == r.Initiator && x.Address == r.Address }
}

// checkAddresses refuses new rules that would match nobody. A document may have some: tgt takes any text, and what was got can be applied.
func checkAddresses(field string, rules ...spec.Rule) error {
	for _, r := range rules {
		if r.Address == "" {
			continue
		}
		if err := spec.CheckAddress(r.Address); err != nil {
			return invalid("", "%s: %w", field, err)
		}
	}
	return nil
}

func (a *access) AddRule(ctx context.Context, q *api.AddRuleRequest) (*api.AddRuleResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	rule, err := conv.ToRule(q.GetRule())
	if err != nil {
		return nil, err
	}
	if err := checkAddresses("rule.address", rule); err != nil {
		return nil, err
	}
	r := &api.AddRuleResponse{}
	err = a.s.svc.EditTarget(ctx, ref, func(t *spec.Target) error {
		r.Existed, r.Rules = false, nil
		if i := slices.IndexFunc(t.Access, sameRule(rule)); i >= 0 {
			if q.GetAllowExisting() && t.Access[i] == rule {
				r.Existed, r.Rules = true, conv.FromRules(t.Access)
				return nil
			}
			e := admin.Errorf(admin.RuleExists, "target %s has a rule of %s already", t.Name, ruleName(rule))
			if t.Access[i] != rule {
				e.Hint = "its rights are others: remove it first"
			}
			return e
		}
		at := len(t.Access)
		if q.Position != nil {
			if int64(q.GetPosition()) > int64(len(t.Access)) {
				return invalid("", "position: %d is behind the target's %d rules", q.GetPosition(), len(t.Access))
			}
			at = int(q.GetPosition())
		}
		t.Access = slices.Insert(slices.Clone(t.Access), at, rule)
		r.Rules = conv.FromRules(t.Access)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (a *access) RemoveRule(ctx context.Context, q *api.RemoveRuleRequest) (*api.RemoveRuleResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	rule, err := conv.ToRule(q.GetRule())
	if err != nil {
		return nil, err
	}
	r := &api.RemoveRuleResponse{}
	err = a.s.svc.EditTarget(ctx, ref, func(t *spec.Target) error {
		r.Missing = false
		i := slices.IndexFunc(t.Access, sameRule(rule))
		switch {
		case i >= 0:
			t.Access = slices.Delete(slices.Clone(t.Access), i, i+1)
		case q.GetMissingOk():
			r.Missing = true
		default:
			return admin.Errorf(admin.NoRule, "target %s has no rule of %s", t.Name, ruleName(rule))
		}
		r.Rules = conv.FromRules(t.Access)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// mapOf is the place of an initiator's map among those of t, or -1.
func mapOf(t *spec.Target, initiator string) int {
	return slices.IndexFunc(t.LUNMaps, func(m spec.LUNMap) bool { return m.Initiator == initiator })
}

func (a *access) AddLunMapping(ctx context.Context, q *api.AddLunMappingRequest) (*api.AddLunMappingResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	if q.GetInitiator() == "" {
		return nil, invalid("give the name, or a pattern such as *", "initiator: it is empty")
	}
	add, err := conv.ToMappedLUNs("luns", q.GetLuns())
	if err != nil {
		return nil, err
	}
	r := &api.AddLunMappingResponse{}
	err = a.s.svc.EditTarget(ctx, ref, func(t *spec.Target) error {
		i := mapOf(t, q.GetInitiator())
		switch {
		case i < 0:
			i = len(t.LUNMaps)
			t.LUNMaps = append(t.LUNMaps, spec.LUNMap{Initiator: q.GetInitiator()})
		case len(add) == 0 && !q.GetAllowExisting():
			return admin.Errorf(admin.RuleExists, "target %s has a LUN map of %s already", t.Name, q.GetInitiator())
		}
		m := &t.LUNMaps[i]
		for _, n := range add {
			k := slices.IndexFunc(m.LUNs, func(x spec.MappedLUN) bool { return x.As == n.As })
			switch {
			case k < 0:
				m.LUNs = append(m.LUNs, n)
			case m.LUNs[k] != n || !q.GetAllowExisting():
				e := admin.Errorf(admin.RuleExists, "target %s shows %s its LUN %d as number %d already", t.Name, m.Initiator, m.LUNs[k].LUN, n.As)
				e.Hint = "take it out of the map first"
				return e
			}
		}
		slices.SortFunc(m.LUNs, func(x, y spec.MappedLUN) int { return int(x.As) - int(y.As) })
		r.LunMaps = conv.FromLUNMaps(t.LUNMaps)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (a *access) RemoveLunMapping(ctx context.Context, q *api.RemoveLunMappingRequest) (*api.RemoveLunMappingResponse, error) {
	ref, err := conv.ToRef(q.GetTarget())
	if err != nil {
		return nil, err
	}
	if q.GetInitiator() == "" {
		return nil, invalid("name the map by its initiator", "initiator: it is empty")
	}
	var take []uint16
	for _, as := range q.GetAs() {
		n, err := conv.ToLUNNumber("as", as)
		if err != nil {
			return nil, err
		}
		take = append(take, n)
	}
	r := &api.RemoveLunMappingResponse{}
	err = a.s.svc.EditTarget(ctx, ref, func(t *spec.Target) error {
		i := mapOf(t, q.GetInitiator())
		switch {
		case i < 0 && !q.GetMissingOk():
			return admin.Errorf(admin.NoRule, "target %s has no LUN map of %s", t.Name, q.GetInitiator())
		case i < 0:
		case len(take) == 0:
			t.LUNMaps = slices.Delete(t.LUNMaps, i, i+1)
		default:
			m := &t.LUNMaps[i]
			for _, as := range take {
				k := slices.IndexFunc(m.LUNs, func(x spec.MappedLUN) bool { return x.As == as })
				if k < 0 {
					if q.GetMissingOk() {
						continue
					}
					return admin.Errorf(admin.NoRule, "target %s shows %s nothing as number %d", t.Name, m.Initiator, as)
				}
				m.LUNs = slices.Delete(m.LUNs, k, k+1)
			}
		}
		r.LunMaps = conv.FromLUNMaps(t.LUNMaps)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}
