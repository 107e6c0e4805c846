package ceph

import (
	"fmt"
	"strings"
	"text/template"
	"time"
)

// A Config says what cluster is wanted; the zero value of a field stands for its default.
type Config struct {
	OSDs      int           // 3
	Mons      int           // 1; 3 for a quorum that survives one
	Size      int           // copies of each object: 3, at most OSDs
	MinSize   int           // copies that must be there for I/O: 2, at most Size
	PGs       int           // placement groups a pool: 8
	Bluestore bool          // on disk; else in memory
	OSDSize   int64         // bytes an OSD may hold: 4 GiB (on disk a sparse file)
	Grace     time.Duration // after which a silent OSD is taken to be down: 5 s, where Ceph's own default is 20
	Dir       string        // an empty folder for everything; a new one below the system's folder for temporary files
}

func (c Config) withDefaults() Config {
	set := func(v *int, to int) {
		if *v == 0 {
			*v = to
		}
	}
	set(&c.OSDs, 3)
	set(&c.Mons, 1)
	set(&c.Size, min(3, c.OSDs))
	set(&c.MinSize, min(2, c.Size))
	set(&c.PGs, 8)
	if c.OSDSize == 0 {
		c.OSDSize = 4 << 30
	}
	if c.Grace == 0 {
		c.Grace = 5 * time.Second
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.OSDs < 1 || c.OSDs > 9, c.Mons < 1 || c.Mons > 5:
		return fmt.Errorf("%d OSDs and %d monitors: want 1 to 9, and 1 to 5", c.OSDs, c.Mons)
	case c.Size > c.OSDs || c.MinSize > c.Size:
		return fmt.Errorf("%d copies, at least %d, on %d OSDs: they have nowhere to be", c.Size, c.MinSize, c.OSDs)
	case c.Grace < 2*time.Second:
		return fmt.Errorf("a grace of %v: heartbeats come every second", c.Grace)
	}
	return nil
}

// monName is what the i-th monitor is called: a, b, …
func monName(i int) string { return string(rune('a' + i)) }

// conf is ceph.conf. What is set against Ceph's defaults: no cephx and no second protocol, elections and proposals at once, heartbeats
// each second with the grace in [global] (the monitors go by it too), recovery without pauses for slow disks, and for bluestore the least memory it takes. An OSD without an admin socket answers no
// queries of its placement groups.
var conf = template.Must(template.New("ceph.conf").Parse(`[global]
fsid = {{.FSID}}
mon_initial_members = {{.Members}}
mon_host = {{.Hosts}}
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
public_network = 127.0.0.0/8
ms_bind_ipv6 = false
ms_bind_msgr1 = false
ms_bind_port_min = {{.FirstPort}}
ms_bind_port_max = {{.LastPort}}
run_dir = {{.Dir}}/run
admin_socket = {{.Dir}}/run/$name.asok
crash_dir = {{.Dir}}/crash
log_file = {{.Dir}}/log/$name.log
log_to_stderr = false
err_to_stderr = true
{{- if .Library}}
plugin_dir = {{.Library}}/ceph
erasure_code_dir = {{.Library}}/ceph/erasure-code
osd_class_dir = {{.Library}}/rados-classes
{{- end}}
osd_pool_default_size = {{.Size}}
osd_pool_default_min_size = {{.MinSize}}
osd_pool_default_pg_num = {{.PGs}}
osd_pool_default_pgp_num = {{.PGs}}
osd_pool_default_pg_autoscale_mode = off
osd_crush_chooseleaf_type = 0
osd_heartbeat_interval = 1
osd_heartbeat_grace = {{.Grace}}
mon_allow_pool_size_one = true
mon_allow_pool_delete = true
[client]
log_file =
admin_socket =
keyring = /dev/null
[mon]
mon_data = {{.Dir}}/mon.$id
mon_cluster_log_file = {{.Dir}}/log/cluster.log
mon_warn_on_pool_no_redundancy = false
mon_data_avail_warn = 2
mon_data_avail_crit = 1
mon_osd_min_down_reporters = 1
mon_osd_reporter_subtree_level = osd
mon_osd_adjust_heartbeat_grace = false
mon_osd_down_out_interval = 600
mon_osd_crush_smoke_test = false
paxos_propose_interval = 0.05
paxos_min_wait = 0.02
mon_election_timeout = 1
[osd]
osd_data = {{.Dir}}/osd.$id
osd_objectstore = {{.Store}}
osd_memory_target = 939524096
osd_op_num_shards = 2
osd_op_num_threads_per_shard = 1
osd_class_load_list = *
osd_class_default_list = *
osd_recovery_sleep = 0
osd_recovery_sleep_hdd = 0
bluestore_debug_enforce_settings = ssd
bluestore_block_size = {{.OSDSize}}
bluestore_block_db_create = false
bluestore_block_wal_create = false
bluestore_fsck_on_mount = false
memstore_device_bytes = {{.OSDSize}}
`))

// OSDs find free ports in this range by themselves, below those that the kernel gives to clients.
const firstPort, lastPort = 16800, 19999

// write makes the text of ceph.conf. library is where unpacked programs have their modules; empty for installed ones.
func (c Config) write(dir, fsid, library string, monitors []string) (string, error) {
	var members, hosts []string
	for i, addr := range monitors {
		members = append(members, monName(i))
		hosts = append(hosts, "[v2:"+addr+"]")
	}
	store := "memstore"
	if c.Bluestore {
		store = "bluestore"
	}
	var b strings.Builder
	err := conf.Execute(&b, map[string]any{
		"FSID": fsid, "Members": strings.Join(members, ","), "Hosts": strings.Join(hosts, ","), "Dir": dir, "Library": library, "Store": store,
		"FirstPort": firstPort, "LastPort": lastPort, "Size": c.Size, "MinSize": c.MinSize, "PGs": c.PGs, "OSDSize": c.OSDSize, "Grace": c.Grace.Seconds(),
	})
	return b.String(), err
}
