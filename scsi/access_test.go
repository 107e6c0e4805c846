package scsi

import (
	"testing"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
	"github.com/lunar-iscsi/lunar/scsi/sam"
	"github.com/lunar-iscsi/lunar/scsi/sense"
)

// reservationClasses are the standards' tables (SPC-4 §5.13.1, SBC-3 §4.17): every command that a disk may have.
var reservationClasses = map[string]resvClass{
	"INQUIRY": resvAllowed, "REPORT LUNS": resvAllowed, "REQUEST SENSE": resvAllowed,
	"READ CAPACITY(10)": resvAllowed, "READ CAPACITY(16)": resvAllowed, "REPORT TARGET PORT GROUPS": resvAllowed,
	"RECEIVE COPY OPERATING PARAMETERS": resvWrite, "RECEIVE COPY STATUS(LID1)": resvWrite,

	"TEST UNIT READY": resvTest, "LOG SENSE": resvTest,

	"READ(6)": resvRead, "READ(10)": resvRead, "READ(12)": resvRead, "READ(16)": resvRead,
	"VERIFY(10)": resvRead, "VERIFY(12)": resvRead, "VERIFY(16)": resvRead, "PRE-FETCH(10)": resvRead, "PRE-FETCH(16)": resvRead,
	"MODE SENSE(6)": resvRead, "MODE SENSE(10)": resvRead, "RECEIVE DIAGNOSTIC RESULTS": resvRead, "GET LBA STATUS": resvRead,
	"READ DEFECT DATA(10)": resvRead, "READ DEFECT DATA(12)": resvRead,
	"REPORT SUPPORTED OPERATION CODES": resvRead, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS": resvRead,

	"WRITE(6)": resvWrite, "WRITE(10)": resvWrite, "WRITE(12)": resvWrite, "WRITE(16)": resvWrite,
	"WRITE AND VERIFY(10)": resvWrite, "WRITE AND VERIFY(12)": resvWrite, "WRITE AND VERIFY(16)": resvWrite,
	"WRITE SAME(10)": resvWrite, "WRITE SAME(16)": resvWrite, "UNMAP": resvWrite, "ORWRITE(16)": resvWrite,
	"COMPARE AND WRITE": resvWrite, "WRITE ATOMIC(16)": resvWrite, "EXTENDED COPY(LID1)": resvWrite, "FORMAT UNIT": resvWrite, "SANITIZE": resvWrite,
	"SYNCHRONIZE CACHE(10)": resvWrite, "SYNCHRONIZE CACHE(16)": resvWrite, "MODE SELECT(6)": resvWrite, "MODE SELECT(10)": resvWrite,
	"SEND DIAGNOSTIC": resvWrite, "SET TARGET PORT GROUPS": resvWrite,

	"START STOP UNIT": resvStart, "PREVENT ALLOW MEDIUM REMOVAL": resvPrevent,

	"RESERVE(6)": resvReserve, "RESERVE(10)": resvReserve, "RELEASE(6)": resvRelease, "RELEASE(10)": resvRelease,
	"READ KEYS": resvPersist, "READ RESERVATION": resvPersist, "REPORT CAPABILITIES": resvPersist, "READ FULL STATUS": resvPersist,
	"REGISTER": resvPersist, "RESERVE": resvPersist, "RELEASE": resvPersist, "CLEAR": resvPersist, "PREEMPT": resvPersist,
	"PREEMPT AND ABORT": resvPersist, "REGISTER AND IGNORE EXISTING KEY": resvPersist, "REGISTER AND MOVE": resvPersist,
}

// rowsOf yields the rows of a table, each with a CDB that leads to it.
func rowsOf(t *opTable, yield func(row *op, b []byte)) {
	for code := range 256 {
		b := make([]byte, max(cdb.Len(byte(code)), 6))
		b[0] = byte(code)
		if row := t.code[code]; row != nil {
			yield(row, b)
		}
		for action, row := range t.actions[code] {
			b := append([]byte(nil), b...)
			b[1] = action
			yield(row, b)
		}
	}
}

func TestReservationClasses(t *testing.T) {
	rowsOf(diskOps, func(row *op, b []byte) {
		if class, ok := reservationClasses[row.name]; !ok || class != row.resv {
			t.Errorf("%s has reservation class %d, want %d (known: %v)", row.name, row.resv, class, ok)
		}
	})
}

// TestAccess: every command, under every reservation, from the holder, from one that is registered and from one that is not. What
// is looked at is whether it ends in RESERVATION CONFLICT, not how else.
func TestAccess(t *testing.T) {
	type column struct {
		name string
		kind prType // 0 with nobody: RESERVE(6)
		who  byte
		not  map[resvClass]bool // classes that conflict
	}
	classes := func(list ...resvClass) map[resvClass]bool {
		m := map[resvClass]bool{}
		for _, c := range list {
			m[c] = true
		}
		return m
	}
	keys := []resvClass{resvReserve, resvRelease}
	write := classes(append(keys, resvWrite, resvStart, resvPrevent)...)
	access := classes(append(keys, resvRead, resvWrite, resvStart, resvPrevent)...)
	none := classes(keys...)
	columns := []column{
		{"RESERVE, of another", 0, 'd', classes(resvTest, resvRead, resvWrite, resvStart, resvPrevent, resvReserve, resvPersist)},
		{"RESERVE, own", 0, 'a', classes(resvPersist)},
	}
	for _, kind := range allTypes {
		registered, other := none, write
		if kind.exclusive() {
			other = access
		}
		if !kind.registrants() {
			registered = other
		}
		columns = append(columns, column{"holder", kind, 'a', none}, column{"registered", kind, 'b', registered}, column{"not registered", kind, 'd', other})
	}
	ops := newPRRig(t, DiskConfig{}).lu.ops
	for _, col := range columns {
		rowsOf(ops, func(row *op, b []byte) {
			if row.resv == resvPersist && col.kind != 0 {
				return // their own business: TestServiceActions
			}
			variants := []struct {
				b4       byte
				conflict bool
			}{{0, col.not[row.resv]}}
			switch row.resv {
			case resvStart:
				variants = append(variants, variants[0], variants[0], variants[0])
				variants[1].b4, variants[1].conflict = 0x01, false // START
				variants[2].b4, variants[2].conflict = 0x03, false // load
				variants[3].b4 = 0x11                              // POWER CONDITION
			case resvPrevent:
				variants[0].conflict = false // allow
				variants = append(variants, variants[0])
				variants[1].b4, variants[1].conflict = 0x01, col.not[row.resv]
			}
			for _, v := range variants {
				r := newPRRig(t, DiskConfig{})
				if col.kind == 0 {
					r.want(r.send('a', []byte{cdb.Reserve6, 0, 0, 0, 0, 0}, nil), "good")
				} else {
					r.register('a', keyA)
					r.register('b', keyB)
					r.ok('a', out{action: prReserve, kind: col.kind, key: keyA})
				}
				own := append([]byte(nil), b...)
				if row.resv == resvStart || row.resv == resvPrevent {
					own[4] = v.b4
				}
				c := &Command{Nexus: r.nx[col.who], CDB: own, OutLen: 4096, Owner: make([]byte, 4096), Inventory: luns{0}}
				r.start(c)
				if got := c.Status == sam.ReservationConflict; got != v.conflict {
					t.Errorf("type %d, %s: %s with byte 4 %02X: %s, conflict wanted: %v", col.kind, col.name, row.name, v.b4, result(c), v.conflict)
				}
			}
		})
	}
}

// TestReservedMeanwhile: what was prepared before somebody else reserved conflicts when its data is there.
func TestReservedMeanwhile(t *testing.T) {
	for _, noWait := range []bool{true, false} {
		r := newPRRig(t, DiskConfig{})
		r.register('a', keyA)
		data := make([]byte, 512)
		data[0] = 'x'
		c := &Command{Nexus: r.nx['d'], CDB: transfer(cdb.Write10, 0, 1, 0), OutLen: 512, NoWait: noWait}
		if !r.lu.Prepare(c) {
			t.Fatal(result(c))
		}
		c.Buf = data
		r.ok('a', out{action: prReserve, kind: we, key: keyA})
		if r.lu.Execute(c) != Done || c.Status != sam.ReservationConflict {
			t.Fatal(result(c))
		}
		if got := r.send('a', transfer(cdb.Read10, 0, 1, 0), nil); got.Data[0] != 0 {
			t.Fatal("it was written all the same")
		}
	}
}

// TestConflictPrecedence: a reset is told ahead of a conflict, and a conflict ahead of the other conditions, which stay (SAM-5 §5.3.3).
func TestConflictPrecedence(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	r.register('a', keyA)
	r.ok('a', out{action: prReserve, kind: we, key: keyA})
	d := r.nx['d']
	d.Raise(sense.ReservationsPreempted)
	d.Raise(sense.DeviceReset)
	for _, want := range []string{"06/29/03", conflicts, conflicts} {
		if got := result(r.send('d', transfer(cdb.Write10, 0, 1, 0), make([]byte, 512))); got != want {
			t.Fatalf("%s, want %s", got, want)
		}
	}
	r.want(r.send('d', transfer(cdb.Read10, 0, 1, 0), nil), "06/2A/03")
	r.want(r.send('d', transfer(cdb.Read10, 0, 1, 0), nil), "good")
}

// TestReserveRelease: RESERVE and RELEASE of both sizes, and what ends them.
func TestReserveRelease(t *testing.T) {
	reserve6, release6 := []byte{cdb.Reserve6, 0, 0, 0, 0, 0}, []byte{cdb.Release6, 0, 0, 0, 0, 0}
	reserve10, release10 := make([]byte, 10), make([]byte, 10)
	reserve10[0], release10[0] = cdb.Reserve10, cdb.Release10
	test := make([]byte, 6)
	for _, k := range []struct {
		name string
		end  func(r *prRig)
		ends bool
	}{
		{"RELEASE(6)", func(r *prRig) { r.want(r.send('a', release6, nil), "good") }, true},
		{"RELEASE(10)", func(r *prRig) { r.want(r.send('a', release10, nil), "good") }, true},
		{"RELEASE(6) of another", func(r *prRig) { r.want(r.send('b', release6, nil), "good") }, false},
		{"RESERVE(10) again", func(r *prRig) { r.want(r.send('a', reserve10, nil), "good") }, false},
		{"nexus loss", func(r *prRig) { r.lu.Detach(r.nx['a']) }, true},
		{"loss of another nexus", func(r *prRig) { r.lu.Detach(r.nx['c']) }, false},
		{"LOGICAL UNIT RESET", func(r *prRig) { r.lu.Reset(sense.DeviceReset); r.attentionsOf() }, true},
		{"target reset", func(r *prRig) { r.lu.Reset(sense.BusReset); r.attentionsOf() }, true},
	} {
		for _, reserve := range [][]byte{reserve6, reserve10} {
			r := newPRRig(t, DiskConfig{})
			r.want(r.send('a', reserve, nil), "good")
			r.want(r.send('b', test, nil), conflicts)
			r.want(r.send('b', reserve, nil), conflicts)
			k.end(r)
			want := conflicts
			if k.ends {
				want = "good"
			}
			if got := result(r.send('b', test, nil)); got != want {
				t.Errorf("%s: TEST UNIT READY of another: %s, want %s", k.name, got, want)
			}
			if got := result(r.send('b', reserve10, nil)); got != want {
				t.Errorf("%s: RESERVE(10) of another: %s, want %s", k.name, got, want)
			}
		}
	}
	r := newPRRig(t, DiskConfig{})
	for _, b := range [][]byte{{cdb.Reserve6, 0x10, 0, 0, 0, 0}, {cdb.Reserve6, 1, 0, 0, 0, 0}, {cdb.Release10, 2, 9: 0}} {
		r.want(r.send('a', b, nil), "05/24/00")
	}
	r.want(r.send('a', prin(prReadKeys, 8), nil), "good")
	r.want(r.send('a', reserve6, nil), "good")
	r.login('e') // a new nexus is another
	r.want(r.send('e', test, nil), conflicts)
	r.want(r.send('a', prin(prReadKeys, 8), nil), conflicts)
	if got := r.out('a', out{action: prRegister, newKey: 1}); got != conflicts {
		t.Error("REGISTER beside RESERVE:", got)
	}
}

// TestPersistentStays: registrations and reservation survive nexus loss and every reset, and are the same nexus's when it is back.
func TestPersistentStays(t *testing.T) {
	r := newPRRig(t, DiskConfig{})
	r.register('a', keyA)
	r.register('b', keyB)
	r.ok('a', out{action: prReserve, kind: eaRO, key: keyA})
	write := transfer(cdb.Write10, 0, 1, 0)
	r.lu.Detach(r.nx['a'])
	r.lu.Reset(sense.DeviceReset)
	r.lu.Reset(sense.BusReset)
	r.attentionsOf()
	r.wantStatus("a=aaaa* b=bbbb type 6")
	r.want(r.send('d', write, make([]byte, 512)), conflicts)
	r.want(r.send('b', write, make([]byte, 512)), "good")
	r.login('a')
	r.want(r.send('a', write, make([]byte, 512)), "good")
	r.ok('a', out{action: prRelease, kind: eaRO, key: keyA})
	r.want(r.send('d', write, make([]byte, 512)), "good")
}

// TestSharedVolumeReservations: where others may write past this LU, no reservation is offered.
func TestSharedVolumeReservations(t *testing.T) {
	st := newTestStore(t, 1<<20)
	st.info.Shared = true
	r := newRig(t, st, DiskConfig{})
	for _, code := range []byte{cdb.Reserve6, cdb.Release6, cdb.Reserve10, cdb.Release10, cdb.PersistentIn, cdb.PersistentOut} {
		b := make([]byte, 10)
		b[0] = code
		r.want(r.do(b, make([]byte, 24)), "05/20/00")
	}
	r.want(r.do(transfer(cdb.Read10, 0, 1, 0), nil), "good")
}

// TestReservedHotPath: with a reservation held and another nexus registered, a READ or WRITE of the holder takes no memory.
func TestReservedHotPath(t *testing.T) {
	for _, kind := range allTypes {
		st := newIdleStore(false)
		lu, err := NewDisk(st, &idleHost{}, DiskConfig{})
		if err != nil {
			t.Fatal(err)
		}
		r := &prRig{rig: &rig{TB: t, lu: lu}, nx: map[byte]*NexusLU{}}
		r.login('a')
		r.login('b')
		r.register('a', keyA)
		r.register('b', keyB)
		r.ok('a', out{action: prReserve, kind: kind, key: keyA})
		buf := make([]byte, 4096)
		c := &Command{Nexus: r.nx['a'], NoWait: true, OutLen: 4096}
		for _, b := range [][]byte{transfer(cdb.Read10, 0, 8, 0), transfer(cdb.Write10, 0, 8, 0)} {
			c.CDB = b
			before := st.n
			allocs := testing.AllocsPerRun(100, func() {
				if !lu.Prepare(c) {
					t.Fatal(result(c))
				}
				c.Buf = buf
				lu.Execute(c)
			})
			if allocs != 0 || st.n != before+101 {
				t.Errorf("type %d, %s: %v allocations, %d requests", kind, cdb.Describe(b), allocs, st.n-before)
			}
		}
	}
}
