package main

// help has tgt's forms of each request, in its order, with explanations of our own; %s is the version of tgt that it is like.
const help = `tgtadm of lunar: tgt's administration utility, as of version %s

Usage: tgtadm [OPTION]
--lld <driver> --mode target --op new --tid <id> --targetname <name>
	make a target of this name. <id> is yours to choose, from 1 on.
--lld <driver> --mode target --op delete [--force] --tid <id>
	remove a target and its logical units.
	With --force sessions that are there are closed,
	otherwise the target stays while it has any.
--lld <driver> --mode target --op show
	list all targets with what they have.
--lld <driver> --mode target --op show --tid <id>
	list the parameters of one target.
--lld <driver> --mode target --op update --tid <id> --name <param> --value <value>
	set a parameter of a target, for sessions to come.
--lld <driver> --mode target --op bind --tid <id> --initiator-address <address>
--lld <driver> --mode target --op bind --tid <id> --initiator-name <name>
	let an initiator in: by address (ALL, an address or a
	network) or by its iSCSI name.
--lld <driver> --mode target --op unbind --tid <id> --initiator-address <address>
--lld <driver> --mode target --op unbind --tid <id> --initiator-name <name>
	take that back; sessions that are there stay.
--lld <driver> --mode target --op stat --tid <id>
	count what the target's sessions have read and written.
--lld <driver> --mode logicalunit --op new --tid <id> --lun <lun>
  --backing-store <path> --bstype <type> --bsopts <bs options> --bsoflags <options>
	serve a file, a block device or another volume as a
	logical unit of a target. Without bstype it is a file or
	a block device; bsopts are of the bstype; bsoflags are
	sync, direct or sync:direct.
--lld <driver> --mode logicalunit --op update --tid <id> --lun <lun> --params <name=value,...>
	change a logical unit.
--lld <driver> --mode logicalunit --op delete --tid <id> --lun <lun>
	remove a logical unit from its target.
--lld <driver> --mode account --op new --user <name> --password <pass>
	make an account for CHAP.
--lld <driver> --mode account --op delete --user <name>
	remove an account.
--lld <driver> --mode account --op bind --tid <id> --user <name> [--outgoing]
	ask initiators of a target for this account, or, with
	--outgoing, show it to them. Without --tid: for discovery.
--lld <driver> --mode account --op unbind --tid <id> --user <name> [--outgoing]
	take that back.
--lld <driver> --mode portal --op new --param portal=<address[:port]>
--lld <driver> --mode portal --op delete --param portal=<address[:port]>
	listen on an address, or no longer.
--lld <driver> --mode conn --op show --tid <id>
--lld <driver> --mode conn --op delete --tid <id> --sid <sid> --cid <cid>
	list a target's connections, close one.
--lld <driver> --mode lld --op start
	start a driver that was stopped.
--mode system --op show
--mode system --op update --name State --value <ready|offline>
	show the daemon's state, let initiators in or not.
--mode system --op delete
	end the daemon; it must have no targets any more.
--control-port <port> use control port <port>
--help
	print this and exit
--version
	print the version of tgt that this program is like and exit;
	--lunar-version, alone, prints its own
`
