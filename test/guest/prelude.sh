# Read by every script that a guest runs. What polls is bounded: a script that waits in vain fails and says for what.

# wait_for SECONDS COMMAND…: until it succeeds. A guest on a busy machine may take a second for the command itself.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	while ! "$@"; do
		[ "$SECONDS" -lt "$end" ] || { echo "in vain: $*" >&2; return 1; }
		sleep 0.05
	done
}

# start_initiator IQN: the kernel's modules and iscsid, under that name.
start_initiator() {
	modprobe -a iscsi_tcp sd_mod sg || return
	echo "InitiatorName=$1" >/etc/iscsi/initiatorname.iscsi
	iscsid -f >/run/iscsid.log 2>&1 &
	wait_for 20 iscsid_up
}
iscsid_up() { iscsiadm -m session >/dev/null 2>&1; [ $? = 21 ]; } # 21: it answers that there is no session

# sessions IQN: their folders in sysfs, one a line.
sessions() {
	local s
	for s in /sys/class/iscsi_session/session*; do
		[ -e "$s/targetname" ] && [ "$(<"$s/targetname")" = "$1" ] && echo "$s"
	done
}

# find_disk IQN LUN: the block devices of its sessions, one a line.
find_disk() {
	local s b
	for s in $(sessions "$1"); do
		for b in "$s"/device/target*/*:"$2"/block/*; do
			[ -b "/dev/${b##*/}" ] && echo "/dev/${b##*/}"
		done
	done | grep .
}

# disk IQN [LUN]: the block device of LUN 1 once it is there.
disk() {
	wait_for 30 find_disk "$1" "${2:-1}"
}

# discover PORTAL: what SendTargets says.
discover() { iscsiadm -m discovery -t sendtargets -p "$1"; }

# login PORTAL IQN [NAME=VALUE…]: with values of the node's record changed before.
login() {
	local portal=$1 iqn=$2 set
	shift 2
	iscsiadm -m node -T "$iqn" -p "$portal" >/dev/null 2>&1 || iscsiadm -m node -o new -T "$iqn" -p "$portal" >/dev/null || return
	for set in "$@"; do
		iscsiadm -m node -T "$iqn" -p "$portal" -o update -n "${set%%=*}" -v "${set#*=}" || return
	done
	iscsiadm -m node -T "$iqn" -p "$portal" --login || { set -- $?; tail -n 20 /run/iscsid.log; return "$1"; }
}

# logout IQN: all its sessions.
logout() { iscsiadm -m node -T "$1" --logout; }

# uncached DEVICE: what the page cache has of it is written and forgotten.
uncached() { blockdev --flushbufs "$1" && echo 3 >/proc/sys/vm/drop_caches; }

# fill DIR MIB: files of odd lengths, together a bit more than MIB, and their sums for checked.
fill() {
	local dir=$1 mib=$2 i
	mkdir -p "$dir"
	for i in $(seq "$mib"); do
		mkdir -p "$dir/$((i % 7))"
		head -c $((1048576 + i * 1021)) /dev/urandom >"$dir/$((i % 7))/file$i" || return
	done
	(cd "$dir" && find . -type f ! -name sums -exec md5sum {} + >sums)
}

# checked DIR: fails when a file that fill made differs from its sum.
checked() { (cd "$1" && md5sum --quiet -c sums); }

# as NAME IQN PORTAL INITIATOR: logs in once more, through an interface record NAME of another initiator's name, and
# says the disk (LUN 1) that this session has.
as() {
	local name=$1 iqn=$2 portal=$3
	{
		iscsiadm -m iface -I "$name" -o new
		iscsiadm -m iface -I "$name" -o update -n iface.initiatorname -v "$4"
		iscsiadm -m node -T "$iqn" -p "$portal" -I "$name" -o new
		iscsiadm -m node -T "$iqn" -p "$portal" -I "$name" --login
	} >/run/as.log || { cat /run/as.log; tail -n 20 /run/iscsid.log; return 1; }
	wait_for 30 disk_of "$iqn" "$4"
}
disk_of() {
	local s b
	for s in $(sessions "$1"); do
		[ "$(<"$s/initiatorname")" = "$2" ] || continue
		for b in "$s"/device/target*/*:1/block/*; do
			[ -b "/dev/${b##*/}" ] && echo "/dev/${b##*/}"
		done
	done | grep .
}

# outcome COMMAND…: how an access of a disk went, in a word: "ok", "conflict" (with a reservation), or an error.
outcome() {
	local said
	if said=$("$@" 2>&1); then
		echo ok
	elif [[ $said == *"Invalid exchange"* ]]; then # EBADE, what the kernel makes of RESERVATION CONFLICT
		echo conflict
	else
		echo "error: $said"
	fi
}

# access DISK: how a read and a write go, past the page cache.
access() {
	echo "read $(outcome dd "if=$1" of=/dev/null bs=4k count=1 iflag=direct status=none)," \
		"write $(outcome dd if=/dev/zero "of=$1" bs=4k count=1 oflag=direct conv=notrunc status=none)"
}

# start_multipath: udevd and multipathd, which makes one device of a LUN's paths and uses one of them at a time.
start_multipath() {
	modprobe -a dm-multipath dm-service-time || return
	cat >/etc/multipath.conf <<-CONF
		defaults {
			find_multipaths no
			user_friendly_names no
			path_grouping_policy failover
			failback manual
			path_checker tur
			polling_interval 1
			max_polling_interval 1
			fast_io_fail_tmo 3
			no_path_retry queue
		}
	CONF
	/usr/lib/systemd/systemd-udevd --daemon || return
	udevadm trigger && udevadm settle && multipathd || return
	wait_for 20 multipathd show daemon >/dev/null
}

# multipath_device N: the one device there is, once it has N paths that work.
multipath_device() {
	wait_for 60 working_paths "$1" >/dev/null && multipathd show maps raw format /dev/mapper/%n | head -n 1
}
# A path that is in no map is "[orphan]".
working_paths() { [ "$(multipathd show paths raw format '%t %T %m' | grep -c '^active ready [^[]')" = "$1" ]; }

# paths IQN: "ADDRESS:PORT DEVICE WRITES" for each session, with how many writes went that way so far.
paths() {
	local s c b
	for s in $(sessions "$1"); do
		c=$(echo "$s"/device/connection*/iscsi_connection/*)
		for b in "$s"/device/target*/*:1/block/*; do
			set -- $(<"$b/stat")
			echo "$(<"$c/persistent_address"):$(<"$c/persistent_port") ${b##*/} $5"
		done
	done
}

# path_state: for who waited in vain for a path.
path_state() {
	multipathd show paths
	iscsiadm -m session -P 1
	tail -n 20 /run/iscsid.log
	return 1
}
