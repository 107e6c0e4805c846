package login

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/lunar-iscsi/lunar/session/pdu"
)

// A Negotiator is the target's side of one connection's login. It belongs to one
// goroutine.
type Negotiator struct {
	cfg    *Config
	policy Policy
	rand   io.Reader

	started, over bool
	stage         pdu.Stage
	itt           uint32
	in            []byte // keys of a request that goes on in the next PDU
	out           []byte // the reply; from sent on still to be sent
	sent          int
	pdus, bytes   int
	keys          int

	named    bool // InitiatorName and TargetName are known and allowed
	greeted  bool // TargetPortalGroupTag and TargetAlias were sent
	segment  bool // our MaxRecvDataSegmentLength was sent
	declared seen
	initName string // as it came
	targName string
	auth     Auth
	method   authMethod
	chap     chap
	ops      acceptor
	res      Result
}

// authMethod is what AuthMethod came to.
type authMethod uint8

const (
	authUndecided authMethod = iota
	authNone
	authCHAP
)

// NewNegotiator returns the login of a new connection to a portal of group portalGroup.
// rand gives challenges (crypto/rand.Reader outside of tests).
func NewNegotiator(cfg *Config, p Policy, rand io.Reader, portalGroup uint16) *Negotiator {
	n := &Negotiator{cfg: cfg, policy: p, rand: rand}
	n.res.PortalGroup = portalGroup
	n.ops = acceptor{own: &cfg.Params, result: RFCDefaults()}
	n.ops.least.HeaderDigest, n.ops.least.DataDigest = cfg.RequireHeaderDigest, cfg.RequireDataDigest
	return n
}

// MaxDataSegment returns how many bytes of data the next Login Request may carry: what
// we declared so far, within what is left of Config.MaxKeyBytes. The data of a header that says
// more need not be read: Received refuses it, with nil for data.
func (n *Negotiator) MaxDataSegment() int {
	return min(int(n.ops.result.MaxRecvDataSegmentLength), n.cfg.MaxKeyBytes-n.bytes)
}

// Result returns what the login came to; it is whole once a Response was Final. Before
// that it holds what is known so far, for the log.
func (n *Negotiator) Result() Result {
	r := n.res
	r.Params = n.ops.end()
	return r
}

// Received takes one Login Request: header and data segment (without pad), which it
// does not keep. A Response that is neither Final nor failed nor Drop is sent, and
// the next request awaited.
func (n *Negotiator) Received(h *pdu.Header, data []byte) Response {
	if n.over {
		return Response{Drop: true, Status: pdu.InvalidDuringLogin, Err: errors.New("PDU after the end of the login")}
	}
	if h.Opcode() != pdu.OpLoginReq {
		if !n.started {
			n.over = true
			return Response{Drop: true, Status: pdu.InvalidDuringLogin, Err: fmt.Errorf("%v before login", h.Opcode())}
		}
		return n.fail(pdu.InvalidDuringLogin, fmt.Errorf("%v during login", h.Opcode()))
	}
	req := (*pdu.LoginReq)(h)
	if f := n.accept(req, data); f != nil {
		return n.failed(f)
	}
	if n.sent < len(n.out) {
		return n.reply(req)
	}
	n.in = append(n.in, data...)
	if req.Continue() {
		// RFC 7143 §6.2: the answer to a part of a key list is an empty response.
		return n.response(req, nil, false, false)
	}
	list := n.in
	n.in = n.in[:0]
	n.out, n.sent = n.out[:0], 0
	if f := n.negotiate(list, req.Transit()); f != nil {
		return n.failed(f)
	}
	return n.reply(req)
}

// A failure ends a login.
type failure struct {
	status pdu.LoginStatus
	err    error
	data   []byte
}

func failf(s pdu.LoginStatus, format string, args ...any) *failure {
	return &failure{status: s, err: fmt.Errorf(format, args...)}
}

// accept checks a request's header and its place among the others.
func (n *Negotiator) accept(req *pdu.LoginReq, data []byte) *failure {
	h := req.H()
	first := !n.started
	if first {
		n.started = true
		n.stage = req.CSG()
		n.res.ISID, n.res.TSIH, n.res.CID, n.res.CmdSN = req.ISID(), req.TSIH(), req.CID(), h.CmdSN()
		n.ops.leading = req.TSIH() == 0
	}
	n.itt = h.ITT()
	n.pdus++
	limit := n.MaxDataSegment()
	n.bytes += min(len(data), limit)
	switch {
	case req.VersionMin() > 0:
		// RFC 7143 §11.13.5: only version 0 exists.
		return failf(pdu.UnsupportedVersion, "version-min %d", req.VersionMin())
	case h.AHSLen() != 0:
		return failf(pdu.InitiatorError, "login with additional header segments")
	case h.DataLen() > limit:
		return failf(pdu.InitiatorError, "data segment of %d bytes, at most %d are allowed", h.DataLen(), limit)
	case len(data) != h.DataLen():
		return failf(pdu.InitiatorError, "%d bytes of data, the header says %d", len(data), h.DataLen())
	case n.pdus > n.cfg.MaxPDUs:
		return failf(pdu.InitiatorError, "more than %d login requests", n.cfg.MaxPDUs)
	case req.ISID() != n.res.ISID || req.TSIH() != n.res.TSIH || req.CID() != n.res.CID:
		return failf(pdu.InitiatorError, "ISID, TSIH or CID changed during login")
	case req.CSG() != n.stage:
		return failf(pdu.InitiatorError, "current stage %d, should be %d", req.CSG(), n.stage)
	case first && n.stage != pdu.SecurityNegotiation && n.stage != pdu.OperationalStage:
		return failf(pdu.InitiatorError, "login begins in stage %d", n.stage)
	case req.Continue() && req.Transit():
		return failf(pdu.InitiatorError, "T and C bits together") // RFC 7143 §11.12.2
	case req.Continue() && len(data) == 0:
		return failf(pdu.InitiatorError, "C bit without data")
	case req.Transit() && !validTransit(req.CSG(), req.NSG()):
		return failf(pdu.InitiatorError, "transit from stage %d to %d", req.CSG(), req.NSG())
	case n.sent < len(n.out) && (len(data) != 0 || req.Continue()):
		// RFC 7143 §6.2: while our list goes on, the other side sends none.
		return failf(pdu.InitiatorError, "data in the middle of our continued response")
	}
	return nil
}

// validTransit checks the stage changes of RFC 7143 §11.12.3.
func validTransit(from, to pdu.Stage) bool {
	return to == pdu.FullFeaturePhase || from == pdu.SecurityNegotiation && to == pdu.OperationalStage
}

// negotiate answers a whole list of keys into n.out.
func (n *Negotiator) negotiate(list []byte, transit bool) *failure {
	var keys []pdu.Key
	for k, err := range pdu.Keys(list) {
		if err != nil {
			return &failure{status: pdu.InitiatorError, err: err}
		}
		if n.keys++; n.keys > n.cfg.MaxKeys {
			return failf(pdu.InitiatorError, "more than %d keys", n.cfg.MaxKeys)
		}
		keys = append(keys, k)
	}
	// Names first, wherever they stand in the list: the rest depends on them.
	for _, k := range keys {
		if f := n.declare(k); f != nil {
			return f
		}
	}
	if !n.named {
		if f := n.identify(); f != nil {
			return f
		}
	}
	if f := n.answer(keys); f != nil {
		return f
	}
	if n.stage == pdu.SecurityNegotiation {
		if f := n.security(transit); f != nil {
			return f
		}
	}
	n.greet()
	return nil
}

// declare takes the keys by which an initiator names itself and its target.
func (n *Negotiator) declare(k pdu.Key) *failure {
	i, ok := byName[k.Name]
	if !ok || table[i].kind != declared || table[i].from != initiator {
		return nil
	}
	if table[i].use == fullOnly {
		return failf(pdu.InitiatorError, "%s during login", k.Name)
	}
	var at *string
	switch k.Name {
	case "InitiatorName":
		at = &n.initName
	case "TargetName":
		at = &n.targName
	case "InitiatorAlias":
		at = &n.res.InitiatorAlias
	case "SessionType":
		var t SessionType
		switch k.Value {
		case "Normal":
		case "Discovery":
			t = Discovery
		default:
			return failf(pdu.SessionTypeNotSup, "SessionType=%q", clip(k.Value))
		}
		if n.named && t != n.res.Type {
			return failf(pdu.InitiatorError, "SessionType changed to %v", t)
		}
		n.res.Type = t
		return nil
	}
	// A deviation from RFC 7143 §6.3, which forbids every repetition: there are versions of
	// libiscsi that say their names in each stage. The same again does no harm, another value does.
	if n.declared.has(i) && *at != k.Value {
		return failf(pdu.InitiatorError, "%s changed from %q to %q", k.Name, clip(*at), clip(k.Value))
	}
	n.declared.add(i)
	*at = k.Value
	return nil
}

// identify asks the policy about the names of the first request.
func (n *Negotiator) identify() *failure {
	if n.initName == "" {
		return failf(pdu.MissingParameter, "no InitiatorName") // RFC 7143 §6.3
	}
	name, err := NormalizeName(n.initName)
	if err != nil {
		return &failure{status: pdu.InitiatorError, err: err}
	}
	n.res.InitiatorName, n.res.InitiatorSent, n.ops.session, n.named = name, n.initName, n.res.Type, true
	var status pdu.LoginStatus
	if n.res.Type == Discovery {
		if n.res.TSIH != 0 {
			// RFC 7143 §4.3: a discovery session has one connection and ends with it.
			return failf(pdu.SessionDoesNotExist, "discovery with TSIH %d", n.res.TSIH)
		}
		if n.auth, status = n.policy.Discovery(Initiator{name, n.initName}); status != pdu.LoginSuccess {
			return failf(status, "discovery refused to %s", name)
		}
	} else {
		if f := n.identifyTarget(); f != nil {
			return f
		}
	}
	if n.stage != pdu.SecurityNegotiation && len(n.auth.Incoming) > 0 {
		// RFC 7143 §6.3.2: who leaves the security stage out must not need it.
		return failf(pdu.AuthenticationFailed, "%s did not authenticate", name)
	}
	return nil
}

func (n *Negotiator) identifyTarget() *failure {
	if n.targName == "" {
		return failf(pdu.MissingParameter, "no TargetName in a normal session")
	}
	name, err := NormalizeTargetName(n.targName)
	if err != nil {
		return &failure{status: pdu.TargetNotFound, err: err}
	}
	n.res.TargetName = name
	info, status := n.policy.Target(Initiator{n.res.InitiatorName, n.initName}, name)
	switch status {
	case pdu.LoginSuccess:
	case pdu.TargetMovedTemp, pdu.TargetMovedPerm:
		f := failf(status, "%s sent to %s", name, info.Redirect)
		f.data = pdu.AppendKey(nil, "TargetAddress", info.Redirect)
		return f
	default:
		if info.Why != nil {
			return &failure{status: status, err: info.Why}
		}
		return failf(status, "target %s refused to %s", name, n.res.InitiatorName)
	}
	n.res.Info, n.auth = info, info.Auth
	if info.Params != nil {
		n.ops.own = info.Params
	}
	n.ops.least.HeaderDigest = n.ops.least.HeaderDigest || info.RequireHeaderDigest
	n.ops.least.DataDigest = n.ops.least.DataDigest || info.RequireDataDigest
	return nil
}

// answer answers every key of a list but the names.
func (n *Negotiator) answer(keys []pdu.Key) (f *failure) {
	first := "" // FirstBurstLength waits for MaxBurstLength, wherever that stands
	for _, k := range keys {
		i, ok := byName[k.Name]
		switch {
		case isCHAPKey(k.Name) && n.stage == pdu.SecurityNegotiation:
			f = n.chap.take(k)
		case isCHAPKey(k.Name):
			f = failf(pdu.InitiatorError, "%s in the operational stage", k.Name)
		case !ok:
			n.out = answerUnknown(n.out, k)
		case table[i].from == target:
			f = fromTarget(k)
		case k.Name == "AuthMethod":
			f = n.chooseMethod(k.Value)
		case n.stage == pdu.SecurityNegotiation && !table[i].security:
			f = failf(pdu.InitiatorError, "%s in the security stage", k.Name) // RFC 7143 §12
		case table[i].kind == declared: // declare took it
		case k.Name == firstBurst && first == "":
			first = k.Value
			continue
		default:
			f = n.operational(i, k.Value)
		}
		if f != nil {
			return f
		}
	}
	if first != "" {
		return n.operational(byName[firstBurst], first)
	}
	return nil
}

func (n *Negotiator) operational(i int, value string) *failure {
	out, err := n.ops.answer(n.out, i, value)
	if err != nil {
		return &failure{status: pdu.InitiatorError, err: err}
	}
	n.out = out
	return nil
}

// fromTarget lets an initiator refuse what we declared, and nothing else, in a key that
// only targets send.
func fromTarget(k pdu.Key) *failure {
	if isAnswer(k.Value) {
		return nil
	}
	return failf(pdu.InitiatorError, "%s from an initiator", k.Name)
}

// greet adds what the target says unasked.
func (n *Negotiator) greet() {
	if !n.greeted && n.res.Type == Normal {
		// RFC 7143 §13.9: in the first response that the target can put keys into.
		n.out = pdu.AppendKey(n.out, "TargetPortalGroupTag", fmt.Sprint(n.res.PortalGroup))
		if n.res.Info.Alias != "" {
			n.out = pdu.AppendKey(n.out, "TargetAlias", n.res.Info.Alias)
		}
	}
	n.greeted = true
	if !n.segment && n.stage == pdu.OperationalStage {
		n.out = n.ops.declareSegment(n.out)
		n.segment = true
	}
}

// reply sends the next part of n.out.
func (n *Negotiator) reply(req *pdu.LoginReq) Response {
	part := n.out[n.sent:]
	if limit := n.partLimit(); len(part) > limit {
		part = part[:limit]
		if i := bytes.LastIndexByte(part, 0); i >= 0 {
			part = part[:i+1]
		}
		n.sent += len(part)
		return n.response(req, part, false, true)
	}
	n.sent = len(n.out)
	transit := req.Transit() && n.mayTransit()
	if transit && req.NSG() == pdu.FullFeaturePhase {
		if f := n.finish(); f != nil {
			return n.failed(f)
		}
		r := n.response(req, part, true, false)
		n.over, r.Final = true, true
		return r
	}
	if transit {
		n.stage = req.NSG()
	}
	return n.response(req, part, transit, false)
}

// partLimit returns how much one response may carry: the default, or less if the
// initiator declared less, since it may hold to that at once.
func (n *Negotiator) partLimit() int {
	return int(min(DefaultMRDSL, n.ops.result.MaxXmitDataSegmentLength))
}

// mayTransit reports whether the target has nothing left to do in the stage.
func (n *Negotiator) mayTransit() bool {
	return n.stage != pdu.SecurityNegotiation || len(n.auth.Incoming) == 0 || n.chap.done
}

// finish checks what only the end of a login can tell.
func (n *Negotiator) finish() *failure {
	switch p, least := &n.ops.result, &n.ops.least; {
	case least.HeaderDigest && !p.HeaderDigest:
		return failf(pdu.InitiatorError, "login without HeaderDigest=CRC32C, which is required")
	case least.DataDigest && !p.DataDigest:
		return failf(pdu.InitiatorError, "login without DataDigest=CRC32C, which is required")
	}
	return nil
}

func (n *Negotiator) response(req *pdu.LoginReq, data []byte, transit, cont bool) Response {
	var r Response
	var nsg pdu.Stage // reserved without T (RFC 7143 §11.12.3)
	if transit {
		nsg = req.NSG()
	}
	(*pdu.LoginResp)(&r.Header).Init(req.H().ITT(), n.res.ISID, n.res.TSIH, pdu.LoginSuccess, transit, cont, req.CSG(), nsg, len(data))
	r.Data = data
	return r
}

// Refuse returns the answer to the last request that ends the login with status: for what
// only the caller can find, a session that does not exist or has no room, in place of
// a Response that was Final or would have gone on.
func (n *Negotiator) Refuse(status pdu.LoginStatus, err error) Response { return n.fail(status, err) }

func (n *Negotiator) failed(f *failure) Response {
	r := n.fail(f.status, f.err)
	r.Data = f.data
	r.Header.SetDataLen(len(f.data))
	return r
}

func (n *Negotiator) fail(status pdu.LoginStatus, err error) Response {
	n.over = true
	r := Response{Status: status, Err: err}
	(*pdu.LoginResp)(&r.Header).Init(n.itt, n.res.ISID, n.res.TSIH, status, false, false, n.stage&3, 0, 0)
	return r
}
