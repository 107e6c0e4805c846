package spec

// A Document is all that a daemon is to serve.
type Document struct {
	System    System    `json:"system" yaml:"system,omitempty"`
	Portals   []Portal  `json:"portals,omitempty" yaml:"portals,omitempty"`
	Accounts  []Account `json:"accounts,omitempty" yaml:"accounts,omitempty"` // in the order of their making
	Discovery Auth      `json:"discovery" yaml:"discovery,omitempty"`         // who may discover; without accounts, everybody
	Targets   []Target  `json:"targets,omitempty" yaml:"targets,omitempty"`   // ascending TID
}

// System is what concerns the whole daemon.
type System struct {
	Offline bool `json:"offline,omitempty" yaml:"offline,omitempty"` // new connections are closed at once; sessions go on
	Debug   bool `json:"debug,omitempty" yaml:"debug,omitempty"`     // the log tells more
	// What targets that are made later start with: see Target.
	NopInterval int  `json:"nop_interval,omitempty" yaml:"nop-interval,omitempty"`
	NopCount    int  `json:"nop_count,omitempty" yaml:"nop-count,omitempty"`
	ISNS        ISNS `json:"isns" yaml:"isns,omitempty"` // kept for tgt's faces, which show it; lunar is no iSNS client
}

// ISNS are tgt's iSNS settings.
type ISNS struct {
	Server        string `json:"server,omitempty" yaml:"server,omitempty"` // IP address
	Port          int    `json:"port,omitempty" yaml:"port,omitempty"`     // 0: 3205
	AccessControl bool   `json:"access_control,omitempty" yaml:"access-control,omitempty"`
}

// A Portal is an address to listen on.
type Portal struct {
	Address   string `json:"address" yaml:"address"`                         // ADDR:PORT, IPv6 in brackets
	Group     uint16 `json:"group,omitempty" yaml:"group,omitempty"`         // target portal group tag; 0: 1
	Advertise string `json:"advertise,omitempty" yaml:"advertise,omitempty"` // HOST:PORT that discovery tells instead
}

// An Account is a CHAP name with its secret. Faces never show the secret.
type Account struct {
	Name   string `json:"name" yaml:"name"`
	Secret string `json:"secret" yaml:"secret"`
}

// Auth names the accounts that logins authenticate with.
type Auth struct {
	Incoming []string `json:"incoming,omitempty" yaml:"incoming,omitempty"` // whoever knows one of these is let in; none: no CHAP is asked for
	Outgoing string   `json:"outgoing,omitempty" yaml:"outgoing,omitempty"` // what lunar proves itself with (mutual CHAP)
}

// A Target is one iSCSI target. TID and Name each name it; no two targets share one.
type Target struct {
	TID   int    `json:"tid" yaml:"tid,omitempty"` // 1 and up; 0 in what is asked for: the next free one
	Name  string `json:"name" yaml:"name"`         // iSCSI name as it was given; compared normalised
	Alias string `json:"alias,omitempty" yaml:"alias,omitempty"`
	// Offline refuses logins (status 0300h) and answers the commands of sessions that are there with BUSY.
	Offline bool `json:"offline,omitempty" yaml:"offline,omitempty"`
	// Access says who may use the target: whom one rule admits. No rule, nobody.
	Access []Rule `json:"access,omitempty" yaml:"access,omitempty"`
	// ExactNames compares initiator names byte by byte, as tgt does, instead of normalised; * and ? are then characters like others.
	ExactNames bool `json:"exact_names,omitempty" yaml:"exact-names,omitempty"`
	Auth       Auth `json:"auth" yaml:"auth,omitempty"`
	// LUNMaps says what an initiator sees: the first that matches its name decides; where none does, every LUN under its own number.
	LUNMaps []LUNMap `json:"lun_maps,omitempty" yaml:"lun-maps,omitempty"`
	// Params are negotiation keys that have been set, by their name in RFC 7143 §13 or tgt's list, and the value as tgtadm prints it. What is
	// not here is lunar's own choice.
	Params map[string]string `json:"params,omitempty" yaml:"params,omitempty"`
	// NopInterval and NopCount in tgt's meaning: seconds between pings, and pings in a row without answer that end a connection.
	// 0: the daemon's --nop-interval and --nop-timeout.
	NopInterval  int      `json:"nop_interval,omitempty" yaml:"nop-interval,omitempty"`
	NopCount     int      `json:"nop_count,omitempty" yaml:"nop-count,omitempty"`
	Redirect     Redirect `json:"redirect" yaml:"redirect,omitempty"`
	PortalGroups []uint16 `json:"portal_groups,omitempty" yaml:"portal-groups,omitempty"` // none: all
	// TgtNaming gives the controller at LUN 0 the names that tgtd gives it.
	TgtNaming    bool  `json:"tgt_naming,omitempty" yaml:"tgt-naming,omitempty"`
	NoController bool  `json:"no_controller,omitempty" yaml:"no-controller,omitempty"` // LUN 0 is free for a disk and absent without one
	LUNs         []LUN `json:"luns,omitempty" yaml:"luns,omitempty"`                   // ascending; the controller is not among them
}

// A Rule admits initiators. It wants everything that it names; one that names nothing is a mistake.
type Rule struct {
	// Initiator is an iSCSI name, in which * stands for any text and ? for one character.
	Initiator string `json:"initiator,omitempty" yaml:"initiator,omitempty"`
	// Address is ALL, an IP address or a network as 192.0.2.0/24 or [2001:db8::]/32. Host bits do not count.
	// On tgt's faces it is kept as it was given, and one that says nothing matches nobody.
	Address string `json:"address,omitempty" yaml:"address,omitempty"`
	// NoReset refuses target resets and other functions that end the tasks of other initiators.
	NoReset bool `json:"no_reset,omitempty" yaml:"no-reset,omitempty"`
	// ReadOnly refuses writes of whom this rule admits.
	ReadOnly bool `json:"read_only,omitempty" yaml:"read-only,omitempty"`
}

// A LUNMap is what some initiators see of a target.
type LUNMap struct {
	Initiator string      `json:"initiator" yaml:"initiator"` // as in Rule
	LUNs      []MappedLUN `json:"luns" yaml:"luns"`           // none: nothing but LUN 0's controller, if the target has it
}

// A MappedLUN shows the target's LUN number LUN as number As.
type MappedLUN struct {
	As  uint16 `json:"as" yaml:"as"`
	LUN uint16 `json:"lun" yaml:"lun"`
}

// Redirect sends logins elsewhere (status 0101h, 0102h). An empty Address: none.
type Redirect struct {
	Address   string `json:"address,omitempty" yaml:"address,omitempty"` // IP address or name
	Port      int    `json:"port,omitempty" yaml:"port,omitempty"`       // 0: 3260
	Permanent bool   `json:"permanent,omitempty" yaml:"permanent,omitempty"`
	Temporary bool   `json:"temporary,omitempty" yaml:"temporary,omitempty"` // tgt's: it was said, and is shown; what is not Permanent is temporary in any case
	Callback  string `json:"callback,omitempty" yaml:"callback,omitempty"`   // tgt's; kept and shown, never run
}

// A LUN is one disk of a target. A zero field is its default.
type LUN struct {
	Number uint16 `json:"number" yaml:"lun"`                        // 0 to 16383
	Volume string `json:"volume,omitempty" yaml:"volume,omitempty"` // URI (package backstore); empty: a drive without a medium
	// Identity names the disk for ever, on any host: made when the LUN is, and saved.
	Identity string `json:"identity,omitempty" yaml:"identity,omitempty"`
	Offline  bool   `json:"offline,omitempty" yaml:"offline,omitempty"` // MEDIUM NOT PRESENT

	Vendor   string `json:"vendor,omitempty" yaml:"vendor,omitempty"`     // at most 8 characters
	Product  string `json:"product,omitempty" yaml:"product,omitempty"`   // 16
	Revision string `json:"revision,omitempty" yaml:"revision,omitempty"` // 4
	Serial   string `json:"serial,omitempty" yaml:"serial,omitempty"`     // 36: VPD page 80h
	SCSIID   string `json:"scsi_id,omitempty" yaml:"scsi-id,omitempty"`   // 36: the T10 designator of VPD page 83h where Naming is tgt's

	// TgtNaming shows tgt's vendor, product, serial number and VPD page 83h byte for byte where nothing else is given, so that a disk
	// that was tgtd's keeps its names.
	TgtNaming bool `json:"tgt_naming,omitempty" yaml:"tgt-naming,omitempty"`

	BlockSize     int  `json:"block_size,omitempty" yaml:"block-size,omitempty"`         // bytes, logical; 512
	PhysicalBlock int  `json:"physical_block,omitempty" yaml:"physical-block,omitempty"` // bytes; see scsi.DiskConfig
	ReadOnly      bool `json:"read_only,omitempty" yaml:"read-only,omitempty"`
	Removable     bool `json:"removable,omitempty" yaml:"removable,omitempty"`
	// Thin overrides whether the disk says that it is thinly provisioned (LBPME); nil: as the store is.
	Thin *bool `json:"thin,omitempty" yaml:"thin,omitempty"`
	// WriteCache is the caching mode page's WCE at start; nil: as the store is.
	WriteCache      *bool `json:"write_cache,omitempty" yaml:"write-cache,omitempty"`
	DescriptorSense bool  `json:"descriptor_sense,omitempty" yaml:"descriptor-sense,omitempty"` // D_SENSE at start
	RotationRate    int   `json:"rotation_rate,omitempty" yaml:"rotation-rate,omitempty"`       // VPD page B1h; 0: as the store is
	// LowestAligned is the lowest aligned LBA; OptimalGranularity and OptimalLength are VPD page B0h's, in blocks; 0: as the store is.
	LowestAligned      int `json:"lowest_aligned,omitempty" yaml:"lowest-aligned,omitempty"`
	OptimalGranularity int `json:"optimal_granularity,omitempty" yaml:"optimal-granularity,omitempty"`
	OptimalLength      int `json:"optimal_length,omitempty" yaml:"optimal-length,omitempty"`

	NoUnmap           bool `json:"no_unmap,omitempty" yaml:"no-unmap,omitempty"`
	NoWriteSame       bool `json:"no_write_same,omitempty" yaml:"no-write-same,omitempty"`
	NoCompareAndWrite bool `json:"no_compare_and_write,omitempty" yaml:"no-compare-and-write,omitempty"`

	// Timeout is how long a command may wait for the volume, in seconds; 0: 30. OnTimeout says what then becomes of it: "wait" (or empty), it waits on
	// and is told of; "error", its initiator is answered NOT READY.
	Timeout   int    `json:"timeout,omitempty" yaml:"timeout,omitempty"`
	OnTimeout string `json:"on_timeout,omitempty" yaml:"on-timeout,omitempty"`
	// Away says what a volume makes of the LUN that cannot be opened when the LUN is made, or made again at the start: "offline", the LUN is there
	// and NOT READY, and is tried again; "fail", the LUN, and with it the start, fails. Empty: see admin.Manager.
	Away string `json:"away,omitempty" yaml:"away,omitempty"`

	// ModePages are mode pages set in tgt's way, PAGE:SUBPAGE:LENGTH:BYTE:…; of them what lunar has is honoured.
	ModePages []string `json:"mode_pages,omitempty" yaml:"mode-pages,omitempty"`
	// Tgt is how tgt's faces were told of the volume; nil: it was not made through them.
	Tgt *TgtStore `json:"tgt,omitempty" yaml:"tgt,omitempty"`
}

// A TgtStore is a backing store in tgt's words.
type TgtStore struct {
	Type    string `json:"type" yaml:"type"`                           // rdwr, aio, null, …
	Path    string `json:"path,omitempty" yaml:"path,omitempty"`       // --backing-store
	Options string `json:"options,omitempty" yaml:"options,omitempty"` // --bsopts
	Flags   string `json:"flags,omitempty" yaml:"flags,omitempty"`     // --bsoflags, in tgt's order
}

// Values of LUN.OnTimeout and LUN.Away.
const (
	TimeoutWait  = "wait"
	TimeoutError = "error"
	AwayOffline  = "offline"
	AwayFail     = "fail"
)
