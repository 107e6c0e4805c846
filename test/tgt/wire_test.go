package tgt

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/lunar-iscsi/lunar/admin/tgtipc"
)

// An ask is a request as bytes, which may be one that no tgtadm sends.
type ask struct {
	mode    tgtipc.Mode
	op      tgtipc.Op
	tid     int32
	payload string
	more    func(h *tgtipc.Header)
	// Where lunard's answer is another one than tgtd's: both, and why.
	tgtd, lunard tgtipc.Errno
	why          string
}

const wireTimeout = 20 * time.Second

// ask sends a request and returns the answer.
func (p *plant) ask(a *ask) (tgtipc.Errno, string) {
	p.Helper()
	h := tgtipc.Header{Mode: a.mode, Op: a.op, TID: a.tid, LUN: tgtipc.NoLUN}
	if a.more != nil {
		a.more(&h)
	}
	c, err := net.Dial("unix", p.socket()+".0")
	if err != nil {
		p.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(wireTimeout)); err != nil {
		p.Fatal(err)
	}
	if _, err := c.Write(h.Append(nil, strings.ReplaceAll(a.payload, "DIR", p.dir))); err != nil {
		p.Fatal(err)
	}
	no, text, err := tgtipc.ReadResponse(c, 1<<20)
	if err != nil {
		p.Fatalf("%v %v %q: %v", h.Mode, h.Op, a.payload, err)
	}
	return no, text
}

// asks sends requests in their order. What is answered has to be the same for every daemon, but for what says otherwise.
func (p *plant) asks(list ...ask) {
	p.Helper()
	for i := range list {
		a := &list[i]
		no, text := p.ask(a)
		if a.why != "" {
			want := a.tgtd
			if p.daemon == lunard {
				want = a.lunard
			}
			if no != want {
				p.Errorf("%v %v %d %q: %v, want %v (%s)", a.mode, a.op, a.tid, a.payload, no, want, a.why)
			}
			continue
		}
		fmt.Fprintf(&p.transcript, "$ %v %v %d %q\n%d\n%s", a.mode, a.op, a.tid, a.payload, no, p.plain(text))
	}
}

func lun(n uint64) func(*tgtipc.Header) { return func(h *tgtipc.Header) { h.LUN = n } }

func hostNo(n uint32) func(*tgtipc.Header) { return func(h *tgtipc.Header) { h.Host = n } }

func driver(name string) func(*tgtipc.Header) { return func(h *tgtipc.Header) { h.LLD = name } }

func kind(lun uint64, n uint32) func(*tgtipc.Header) {
	return func(h *tgtipc.Header) { h.LUN, h.DeviceType = lun, n }
}

func outgoing(h *tgtipc.Header) { h.Direction = tgtipc.Outgoing }

// each payload is one request like a.
func (a ask) each(payloads ...string) (list []ask) {
	for _, p := range payloads {
		a.payload = p
		list = append(list, a)
	}
	return list
}

const (
	mSystem  = tgtipc.ModeSystem
	mTarget  = tgtipc.ModeTarget
	mDevice  = tgtipc.ModeDevice
	mPortal  = tgtipc.ModePortal
	mLLD     = tgtipc.ModeLLD
	mSession = tgtipc.ModeSession
	mConn    = tgtipc.ModeConnection
	mAccount = tgtipc.ModeAccount
	oNew     = tgtipc.OpNew
	oDelete  = tgtipc.OpDelete
	oShow    = tgtipc.OpShow
	oBind    = tgtipc.OpBind
	oUnbind  = tgtipc.OpUnbind
	oUpdate  = tgtipc.OpUpdate
	oStats   = tgtipc.OpStats
	oStart   = tgtipc.OpStart
	oStop    = tgtipc.OpStop
	invalid  = tgtipc.ErrInvalidRequest
)

func TestWireAccountsAndRules(t *testing.T) {
	each(t, func(p *plant) {
		p.asks(
			ask{mode: mTarget, op: oNew, tid: 1, payload: "targetname=iqn.a"},
			ask{mode: mTarget, op: oNew, tid: 2, payload: "foo=bar,targetname=iqn.b"},
			ask{mode: mTarget, op: oNew, tid: 3, payload: "targetname=iqn.c,targetname=iqn.d"},
			ask{mode: mAccount, op: oNew, payload: "foo=bar"},
			ask{mode: mAccount, op: oDelete, payload: "foo=bar"},
			ask{mode: mAccount, op: oNew, payload: "user=x"},
			ask{mode: mAccount, op: oNew, payload: "user=a,password=pa"},
			ask{mode: mAccount, op: oNew, payload: "user=b,password=pb"},
			ask{mode: mAccount, op: oNew, payload: "user=a,password=other"},
			ask{mode: mAccount, op: oNew, payload: "user=,password=pb", lunard: invalid, why: "an account without a name"},
			ask{mode: mAccount, op: oBind, tid: 77, payload: "user=nobody"},
			ask{mode: mAccount, op: oBind, tid: 77, payload: "user=a"},
			ask{mode: mAccount, op: oBind, tid: 1, payload: "user=a,foo=1"},
			ask{mode: mAccount, op: oBind, tid: 1, payload: "user=a"},
			ask{mode: mAccount, op: oBind, tid: 1, payload: "user=a"},
			ask{mode: mAccount, op: oBind, tid: 1, payload: "user=a", more: outgoing},
			ask{mode: mAccount, op: oBind, tid: 1, payload: "user=b", more: outgoing},
			ask{mode: mAccount, op: oUnbind, tid: 1, payload: "user=b", more: outgoing},
			ask{mode: mAccount, op: oUpdate, payload: "user=a"},
			ask{mode: mAccount, op: oStats},
			ask{mode: mAccount, op: 9, payload: "user=a"},
			ask{mode: mAccount, op: oBind, tid: -1, payload: "user=b", more: outgoing},
			ask{mode: mSystem, op: oShow},
			ask{mode: mAccount, op: oBind, tid: -1, payload: "user=a"},
			ask{mode: mSystem, op: oShow},
			ask{mode: mTarget, op: oBind, tid: 1, more: hostNo(5)},
			ask{mode: mTarget, op: oBind, tid: 2, more: hostNo(5)},
			ask{mode: mTarget, op: oBind, tid: 77, more: hostNo(7)},
			ask{mode: mTarget, op: oUnbind, tid: 2, more: hostNo(5)},
			ask{mode: mTarget, op: oUnbind, tid: 1, more: hostNo(5)},
			ask{mode: mTarget, op: oBind, tid: 1},
			ask{mode: mTarget, op: oUnbind, tid: 1},
			ask{mode: mTarget, op: oBind, tid: 1, payload: "foo=bar"},
			ask{mode: mTarget, op: oBind, tid: 1, payload: "initiator-address=1.2.3.4,initiator-name=n1"},
			ask{mode: mTarget, op: oBind, tid: 1, payload: "initiator-address=1.2.3.4,initiator-name=n1"},
			ask{mode: mTarget, op: oBind, tid: 1, payload: "initiator-name=n2,initiator-address=5.6.7.8"},
			ask{mode: mTarget, op: oBind, tid: 1, payload: "initiator-name=n2,initiator-address=5.6.7.8"},
			ask{mode: mTarget, op: oBind, tid: 1, payload: "initiator-address=", lunard: invalid, why: "a rule that says nothing"},
			ask{mode: mTarget, op: oUnbind, tid: 1, payload: "initiator-address=", lunard: tgtipc.ErrInvalidRequest, why: "likewise"},
			ask{mode: mTarget, op: oShow, tid: -5},
			ask{mode: mTarget, op: oUnbind, tid: 1, payload: "initiator-address=1.2.3.4,initiator-name=n1"},
			ask{mode: mTarget, op: oUnbind, tid: 1, payload: "initiator-address=7.7.7.7,initiator-name=n2"},
			ask{mode: mTarget, op: oShow, tid: -1},
		)
	})
}

func TestWireDevices(t *testing.T) {
	each(t, func(p *plant) {
		p.file("d1.img", 64<<20)
		p.file("d2.img", 64<<20)
		for i := range 9 {
			p.file(fmt.Sprintf("t%d.img", i), 1<<20)
		}
		make := func(n uint64, payload string) ask {
			return ask{mode: mDevice, op: oNew, tid: 1, payload: payload, more: lun(n)}
		}
		refused := func(a ask, why string) ask { a.lunard, a.why = invalid, why; return a }
		p.asks(
			ask{mode: mTarget, op: oNew, tid: 1, payload: "targetname=iqn.a"},
			make(1, "path=DIR/missing,path=DIR/d1.img"),
			make(2, ""),
			make(3, "bstype=null"),
			make(4, "bstype=aio"),
			make(5, "path="),
			ask{mode: mDevice, op: oNew, tid: 77, payload: "path=x", more: lun(0)},
			make(12, "path=x,bstype=null,bsoflags=direct"),
			make(13, "path=DIR/t0.img,bsoflags="),
			make(14, "path=DIR/t1.img,bsoflags=direct:sync"),
			make(15, "path=DIR/t2.img,bsoflags=sync:"),
			make(16, "bsoflags=bogus"),
			make(17, "path=DIR/t3.img,blocksize=4096x"),
			make(19, "path=DIR/t4.img,blocksize=0x1000"),
			make(20, "path=DIR/t5.img,blocksize=1"),
			make(21, "path=DIR/t6.img,blocksize=0"),
			refused(make(27, "path=DIR/t8.img,blocksize=256"), "blocks have 512 bytes or more"),
			make(22, "junk"),
			ask{mode: mDevice, op: oNew, tid: 1, payload: "path=DIR/t8.img", more: kind(23, 13)},
			refused(ask{mode: mDevice, op: oNew, tid: 1, payload: "path=DIR/t8.img", more: kind(25, tgtipc.DeviceOSD)}, "disks only"),
			refused(ask{mode: mDevice, op: oNew, tid: 1, more: kind(28, tgtipc.DeviceChanger)}, "disks only"),
			make(26, "path=DIR/t7.img,bsopts=a;b=c"),
			make(29, "bstype=nosuch"), make(29, "bstype=sg"), make(29, "bstype=sheepdog,path=x"), ask{mode: mDevice, op: oNew, tid: 1, more: kind(29, tgtipc.DevicePassthrough)},
			ask{mode: mDevice, op: oDelete, tid: 77, more: lun(0)},
			ask{mode: mDevice, op: oDelete, tid: 77, more: lun(1)},
			ask{mode: mDevice, op: oShow, tid: 1, more: lun(1)},
			ask{mode: mDevice, op: oBind, tid: 77, more: lun(1)},
			ask{mode: mDevice, op: oStats, tid: 1},
			ask{mode: mDevice, op: oStats, tid: 77, more: lun(99)},
			ask{mode: mDevice, op: oStats, tid: 1, more: func(h *tgtipc.Header) { h.LUN, h.SID = 1, 9 }},
			ask{mode: mDevice, op: oUpdate, tid: 77, more: lun(1)},
			ask{mode: mDevice, op: oUpdate, tid: 1, more: lun(1)},
			ask{mode: mDevice, op: oUpdate, tid: 1, more: lun(0)},
			ask{mode: mDevice, op: oUpdate, tid: 1, payload: "targetOps readonly=1,", more: lun(99)},
			ask{mode: mTarget, op: oShow, tid: -1, tgtd: 0, lunard: 0, why: "tgtd has more devices"},
		)
		update := ask{mode: mDevice, op: oUpdate, tid: 1, more: lun(1)}
		for _, kv := range []string{"scsi_id=0123456789012345678901234567890123456789", "scsi_sn=0123456789012345678901234567890123456789",
			"vendor_id=12345678", "readonly=1x", "readonly=2", "removable=1", "nosuch=1,vendor_id=a", "vendor_id",
			"readonly=1,,removable=0", "online=1,mode_page=8:0:2:1", "mode_page=x", "mode_page=10:0:10:1:2:3:4:5:6:7:8:9:10:11",
			"online=0,path=DIR/d2.img,online=1", "online=0,nosuch=1,path=DIR/d1.img", "path=DIR/missing", "online=1,path=DIR/d2.img", "online=2",
			"lbppbe=3,la_lba=0,optimal_xfer_gran=8,optimal_xfer_len=64,rotation_rate=7200,sense_format=1", "lbppbe=abc", "readonly=0", "bsopts=size=1,online=1",
			"online=1,bsopts=size=1", "thin_provisioning=1,nosuch=1,online=1"} {
			update.payload = "targetOps " + kv + ","
			p.asks(update)
		}
		for _, raw := range []string{"blocksize=512", "bsoflags=direct", "targetops readonly=0,", "xxxxxxxxxxreadonly=0,", "readonly=0"} {
			update.payload = raw
			p.asks(update)
		}
		// A drive gets a medium.
		update.more = lun(2)
		for _, kv := range []string{"online=1", "path=DIR/d2.img", "online=1"} {
			update.payload = "targetOps " + kv + ","
			p.asks(update)
		}
		for _, n := range []uint64{25, 27, 28} { // what tgtd alone has
			p.asks(ask{mode: mDevice, op: oDelete, tid: 1, more: lun(n), tgtd: 0, lunard: tgtipc.ErrNoLUN, why: "it was refused"})
		}
		p.asks(ask{mode: mTarget, op: oShow, tid: -1}, ask{mode: mDevice, op: oStats, tid: 1, more: lun(1)}, ask{mode: mTarget, op: oStats, tid: 1})
	})
}

func TestWireParameters(t *testing.T) {
	each(t, func(p *plant) {
		const positive, port = "pings are counted from 0", "no such port"
		p.asks(
			ask{mode: mTarget, op: oNew, tid: 1, payload: "targetname=iqn.a"},
			ask{mode: mTarget, op: oNew, tid: -5, payload: "targetname=iqn.neg", lunard: invalid, why: "targets have a number of 1 or more"},
			ask{mode: mTarget, op: oNew, tid: 0, payload: "targetname=iqn.z", lunard: invalid, why: "likewise"},
			ask{mode: mTarget, op: oNew, tid: 2, payload: "targetname=", lunard: invalid, why: "a target without a name"},
			ask{mode: mTarget, op: oNew, tid: 3, payload: "targetname=iqn.a"},
			ask{mode: mTarget, op: oNew, tid: 1, payload: "targetname=iqn_a"},
		)
		if p.daemon == tgtd {
			for _, tid := range []int32{-5, 0, 2} {
				p.quietly(ask{mode: mTarget, op: oDelete, tid: tid})
			}
		}
		update := ask{mode: mTarget, op: oUpdate, tid: 1}
		p.asks(update.each("nop_interval=5x", "nop_count=3", "state=readyx", "state=off", "state=", "State=ready", "MaxBurstLength=0x40000",
			"MaxBurstLength=4096junk", "MaxBurstLength=junk", "MaxBurstLength=-1", "MaxBurstLength=16777216", "FirstBurstLength=512", "HeaderDigest=crc32c",
			"HeaderDigest=None,CRC32C", "HeaderDigest=CRC32C,None", "HeaderDigest=CRC32C,", "HeaderDigest=", "InitialR2T=YES", "InitialR2T=", "IFMarkInt=0", "OFMarkInt=4096",
			"ErrorRecoveryLevel=2", "ErrorRecoveryLevel=3", "MaxConnections=65535", "MaxOutstandingUnexpectedPDUs=1", "MaxOutstandingUnexpectedPDUs=2", "MaxQueueCmd=0",
			"MaxQueueCmd=513", "MaxQueueCmd=64", "DefaultTime2Retain=0", "DefaultTime2Retain=3600", "DefaultTime2Retain=3601", "RDMAExtensions=No", "DataDigest=CRC32C",
			"MaxRecvDataSegmentLength=511", "maxxmitdatasegmentlength=65536", "TargetRecvDataSegmentLength=65536", "foo", "TargetName=x", "SendTargets=All",
			"InitiatorAlias=x")...)
		p.asks(
			ask{mode: mTarget, op: oUpdate, tid: 1, payload: "nop_intervalfoo=7", lunard: invalid, why: "tgtd takes it for nop_interval=0"},
			ask{mode: mTarget, op: oUpdate, tid: 1, payload: "nop_interval=5"},
			ask{mode: mTarget, op: oUpdate, tid: 1, payload: "nop_count=-3", lunard: invalid, why: positive},
			ask{mode: mTarget, op: oUpdate, tid: 1, payload: "nop_count=3"},
			ask{mode: mTarget, op: oShow, tid: 1},
		)
		for _, kv := range []string{"RedirectPort=77", "RedirectAddress=", "RedirectAddressX=192.0.2.4", "RedirectAddress=host.example", "RedirectReason=Temp", "RedirectPort=", "RedirectReason=TemporaryX",
			"RedirectReason=Permanent", "RedirectReason=", "RedirectAddress=", "RedirectCallback=x"} {
			p.asks(ask{mode: mTarget, op: oUpdate, tid: 1, payload: kv}, ask{mode: mTarget, op: oShow, tid: 1})
		}
		p.asks(
			ask{mode: mTarget, op: oUpdate, tid: 1, payload: "RedirectPort=abc", lunard: invalid, why: port},
			ask{mode: mTarget, op: oUpdate, tid: 1, payload: "RedirectPort=999999", lunard: invalid, why: port},
			ask{mode: mTarget, op: oUpdate, tid: 77, payload: "foo"},
			ask{mode: mTarget, op: oUpdate, tid: 77, payload: "foo=1"},
			ask{mode: mTarget, op: oStart, tid: 1},
			ask{mode: mTarget, op: 9, tid: 1},
			ask{mode: mTarget, op: oStats, tid: -1},
		)
	})
}

// quietly is ask without a word in the transcript.
func (p *plant) quietly(a ask) { p.Helper(); p.ask(&a) }

func TestWireSystem(t *testing.T) {
	each(t, func(p *plant) {
		p.asks(ask{mode: mSystem, op: oUpdate}.each("debug=on", "debug=onx", "debug=off", "debug=of", "debug", "State=offline", "State=readyx", "State=ready,State=bogus",
			"State=bogus,State=ready", "foo=1,State=offline", "State=ready,foo=1", "State=ready", "iSNSServerIP=", "iSNSServerIP=192.0.2.7", "iSNSServerPort=0x100", "iSNSServerPort=5x",
			"iSNSServerPort=abc", "iSNSServerPort=", "iSNSAccessControl=On", "iSNSAccessControl=foo", "iSNSAccessControl=", "iSNS=Off", "iSNS=Offx", "iSNS=", "State=", "State",
			" State=ready", "State=ready,", "State=ready,,debug=on", "debug=off")...)
		p.asks(
			ask{mode: mSystem, op: oShow}, ask{mode: mSystem, op: oNew}, ask{mode: mSystem, op: oBind}, ask{mode: mSystem, op: oStart}, ask{mode: mSystem, op: oStats},
			ask{mode: 9, op: oShow, tid: -1}, ask{mode: 9, op: oNew},
			ask{mode: mSession, op: oShow, tid: 1}, ask{mode: mSession, op: oStats, tid: 77}, ask{mode: mSession, op: oDelete, tid: 1},
			ask{mode: mConn, op: oStats, tid: 77}, ask{mode: mConn, op: oShow, tid: -1}, ask{mode: mConn, op: oNew, tid: 1},
			ask{mode: mTarget, op: oNew, tid: 1, payload: "targetname=iqn.a"}, ask{mode: 9, op: oShow, tid: 1}, ask{mode: mConn, op: oDelete, tid: 1},
			ask{mode: mLLD, op: oShow, more: driver("iscsi")}, ask{mode: mLLD, op: oShow, more: driver("iser")}, ask{mode: mLLD, op: oShow, more: driver("nosuch")},
			ask{mode: mLLD, op: oNew}, ask{mode: mLLD, op: oUpdate}, ask{mode: mLLD, op: oStop, more: driver("iser")}, ask{mode: mLLD, op: oStop, more: driver("nosuch")},
			ask{mode: mLLD, op: oStart}, ask{mode: mLLD, op: oStop}, ask{mode: mLLD, op: oStart, more: driver("iser")},
			ask{mode: mTarget, op: oDelete, tid: 1}, ask{mode: mLLD, op: oStop}, ask{mode: mLLD, op: oStop}, ask{mode: mTarget, op: oNew, tid: 1, payload: "targetname=iqn.q"},
			ask{mode: mTarget, op: oNew, tid: 2, payload: "targetname=iqn.r", more: driver("iscsi")}, ask{mode: mTarget, op: oShow, tid: -1}, ask{mode: mSystem, op: oShow},
			ask{mode: mLLD, op: oStart}, ask{mode: mLLD, op: oStart},
		)
	})
}

func TestWirePortals(t *testing.T) {
	var at [12]int
	for i := range at {
		at[i] = freePort(t, "127.0.0.1")
	}
	six := freePort(t, "::1")
	v4 := func(i int) string { return fmt.Sprintf("portal=127.0.0.1:%d", at[i]) }
	each(t, func(p *plant) {
		own := fmt.Sprintf("Portal: %s,1\n", p.portal)
		show := func() {
			p.Helper()
			// The order is that of tgtd, but for the first one, whose port is another one in each plant.
			no, text := p.ask(&ask{mode: mPortal, op: oShow})
			fmt.Fprintf(&p.transcript, "%d\n%s", no, strings.Replace(text, own, "", 1))
		}
		ask := ask{mode: mPortal, op: oNew}
		p.asks(ask.each("portalOps "+v4(0)+",", v4(1), "portalOps "+v4(2)+","+v4(3)+",", "portalOps foo=1,"+v4(4)+",", "portalOps "+v4(5)+",foo=1", "portalOps portal=,",
			"portalOps "+v4(0)+",", "portalOps portal=127.0.0.1:99999", fmt.Sprintf("portalOps portal=[::1]:%d", six),
			fmt.Sprintf("portalOps portal=[::1:%d", six), "portalOps nop_interval=3,", "portalOps "+v4(6)+",nop_interval=9,nop_count=8,", v4(7)+",foo=bar", "portal=203.0.113.9")...)
		show()
		ask.op = oDelete
		p.asks(ask.each(fmt.Sprintf("portalOps portal=localhost:%d", at[0]), "portalOps "+v4(2)+","+v4(3)+",", fmt.Sprintf("portal=[::1]:%d", six), "portalOps portal=127.0.0.1:7,", "foo")...)
		show()
		ask.op, ask.payload = oUpdate, "x"
		p.asks(ask)
		ask.op, ask.payload = oStats, ""
		p.asks(ask)
		ask.mode, ask.op, ask.tid, ask.payload = mTarget, oNew, 9, "targetname=iqn.b"
		p.asks(ask)
		ask.op, ask.payload = oShow, ""
		p.asks(ask)
	})
}
