//go:build e2e

package guest

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// postgres is the shell's part of these tests: a cluster on the disk's file system, and programs that run as its owner,
// since PostgreSQL does not run as root.
const postgres = `
set -e
grep -q ^postgres: /etc/passwd || echo postgres:x:999:999::/tmp:/bin/bash >>/etc/passwd
export PATH=$PATH:/usr/lib/postgresql/15/bin PGDATA=/srv/pg/data PGHOST=/tmp PGUSER=postgres PGDATABASE=postgres
owner() { setpriv --reuid 999 --regid 999 --clear-groups -- "$@"; }
mounted() { mkdir -p /srv/pg && mount "$1" /srv/pg; }
start_postgres() {
	cd /tmp
	owner pg_ctl start -w -t 120 -l /tmp/pg.log -o "-k /tmp -c listen_addresses=''" >/dev/null || { cat /tmp/pg.log; return 1; }
}
`

// A database on the disk, with pgbench on it and a client beside that inserts one row after another and says each that
// it was told is committed. lunard is killed, and killed again, and in the end the guest: every such row is
// there when the database has recovered, and pgbench's sums agree.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	const patience = 5 * time.Minute // for a step: initdb alone takes 20 s on a quiet machine
	s := serve(t, "512M")
	o := Options{Layer: "postgres", Memory: 512}
	g := BootWith(t, o)
	disk := s.login(t, g, settings[:]...)
	g.Start(t, postgres+`
		mkfs.ext4 -q `+disk+`
		mounted `+disk+`
		chown 999:999 /srv/pg
		owner initdb --no-locale -E UTF8 -A trust >/dev/null
		start_postgres
		owner pgbench -q -i -s 2 2>&1
		owner psql -q -c 'CREATE TABLE acknowledged (id int PRIMARY KEY)'
	`).Wait(t, patience)
	bench := g.Start(t, postgres+"cd /tmp; owner pgbench -n -c 4 -T 3600")
	// The answer to a statement comes when its transaction is committed, and psql prints it when all of it has come.
	client := g.Start(t, postgres+`
		cd /tmp
		seq 1000000 | sed 's/.*/INSERT INTO acknowledged VALUES (&) RETURNING id;/' | owner psql -At -q`)
	client.Until(t, patience, "\n100\n")
	for _, id := range []string{"300", "600"} {
		s.restart(t)
		client.Until(t, patience, "\n"+id+"\n")
	}
	if bench.Ended() {
		t.Errorf("pgbench has ended: %s", bench.Wait(t, time.Second))
	}
	g.Kill(t)
	out, _, _, _ := client.now()
	out = out[:strings.LastIndexByte(out, '\n')] // whole lines
	acknowledged := strings.Fields(out)

	g = BootWith(t, o)
	disk = s.login(t, g)
	there := strings.Fields(g.Start(t, postgres+`
		mounted `+disk+`
		start_postgres
		owner psql -At -c 'SELECT id FROM acknowledged'
	`).Wait(t, patience))
	known := map[string]bool{}
	for _, id := range there {
		known[id] = true
	}
	lost := slices.DeleteFunc(slices.Clone(acknowledged), func(id string) bool { return known[id] })
	if len(lost) > 0 || len(acknowledged) < 600 {
		t.Errorf("of %d rows whose commit was acknowledged %d are not there: %v", len(acknowledged), len(lost), lost)
	}
	t.Logf("%d rows acknowledged, %d there", len(acknowledged), len(there))
	sums := strings.Fields(g.Start(t, postgres+`
		owner psql -At -F ' ' -c "SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
			(SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(delta) FROM pgbench_history), (SELECT count(*) FROM pgbench_history)"
		owner pg_ctl stop -m fast >/dev/null
		umount /srv/pg
		e2fsck -f -n `+disk+` >/dev/null 2>&1
		logout `+iqn+` >/dev/null`).Wait(t, patience))
	if len(sums) != 5 || sums[0] != sums[1] || sums[1] != sums[2] || sums[2] != sums[3] || sums[4] == "0" {
		t.Errorf("pgbench's sums of accounts, tellers, branches and history, and how long that is: %v", sums)
	}
	g.Shutdown(t)
	s.Stop(t)
}
