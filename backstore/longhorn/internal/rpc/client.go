package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/encoding/protowire"
)

// Limits on answers.
const (
	maxAnswer    = 4 << 20 // bytes
	maxReplicas  = 64
	maxSnapshots = 4096 // the engine itself has 254
)

// The engine's services.
const (
	controller = "/ptypes.ControllerService/"
	replica    = "/ptypes.ReplicaService/"
	agent      = "/ptypes.SyncAgentService/"
)

// A Client talks to one server: a controller, a replica or a sync agent.
type Client struct {
	cc     *grpc.ClientConn
	volume string
}

// Dial returns a client of the server at addr (host:port), which serves the volume: a server that serves another one refuses the
// calls. It connects with the first call. An empty volume is not checked.
func Dial(addr, volume string) (*Client, error) {
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(), grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(codec{}), grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, err
	}
	return &Client{cc: cc, volume: volume}, nil
}

// Close ends the connection.
func (c *Client) Close() { _ = c.cc.Close() } // nothing is lost by it

func (c *Client) call(ctx context.Context, method string, m message) ([]byte, error) {
	if c.volume != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "volume-name", c.volume)
	}
	if m == nil {
		m = message{}
	}
	var out []byte
	err := c.cc.Invoke(ctx, method, m, &out)
	return out, err
}

// A Volume is what a controller tells of its volume.
type Volume struct {
	Name           string
	Size           int64 // bytes
	Replicas       int
	Endpoint       string
	Frontend       string // "socket", "tgt-iscsi", "tgt-blockdev", …; empty: none
	FrontendState  string // "up", "down"
	Expanding      bool
	ExpansionError string // of the last expansion
}

func (c *Client) volumeCall(ctx context.Context, method string, m message) (Volume, error) {
	b, err := c.call(ctx, controller+method, m)
	if err != nil {
		return Volume{}, err
	}
	return volumeOf(b)
}

func volumeOf(b []byte) (v Volume, err error) {
	err = fields(b, func(f *field) error {
		switch {
		case f.is(1, protowire.BytesType):
			v.Name = f.string()
		case f.is(2, protowire.VarintType):
			v.Size = int64(f.value)
		case f.is(3, protowire.VarintType):
			v.Replicas = int(int32(f.value))
		case f.is(4, protowire.BytesType):
			v.Endpoint = f.string()
		case f.is(5, protowire.BytesType):
			v.Frontend = f.string()
		case f.is(6, protowire.BytesType):
			v.FrontendState = f.string()
		case f.is(7, protowire.VarintType):
			v.Expanding = f.value != 0
		case f.is(8, protowire.BytesType):
			v.ExpansionError = f.string()
		}
		return nil
	})
	if err == nil && v.Size < 0 {
		err = fmt.Errorf("a volume of %d bytes", v.Size)
	}
	return v, err
}

// Volume tells of the controller's volume.
func (c *Client) Volume(ctx context.Context) (Volume, error) {
	return c.volumeCall(ctx, "VolumeGet", nil)
}

// Expand begins to give the volume size bytes. When it has ended, Volume tells whether it succeeded.
func (c *Client) Expand(ctx context.Context, size int64) (Volume, error) {
	return c.volumeCall(ctx, "VolumeExpand", message(nil).number(1, size))
}

// Snapshot takes a snapshot with labels that say who made it.
func (c *Client) Snapshot(ctx context.Context, name string, labels map[string]string) error {
	m := message(nil).text(1, name)
	for k, v := range labels {
		m = m.pair(2, k, v)
	}
	_, err := c.call(ctx, controller+"VolumeSnapshot", m)
	return err
}

// Revert gives the volume the contents of a snapshot. Its frontend is to be shut down.
func (c *Client) Revert(ctx context.Context, name string) error {
	_, err := c.volumeCall(ctx, "VolumeRevert", message(nil).text(1, name))
	return err
}

// StopFrontend and StartFrontend shut the frontend down and start one.
func (c *Client) StopFrontend(ctx context.Context) error {
	_, err := c.volumeCall(ctx, "VolumeFrontendShutdown", nil)
	return err
}

// StartFrontend: see StopFrontend.
func (c *Client) StartFrontend(ctx context.Context, frontend string) error {
	_, err := c.volumeCall(ctx, "VolumeFrontendStart", message(nil).text(1, frontend))
	return err
}

// A Mode says what a replica is used for.
type Mode int

// The modes.
const (
	WriteOnly Mode = iota // it is being rebuilt
	ReadWrite
	Failed
)

func (m Mode) String() string {
	switch m {
	case WriteOnly:
		return "WO"
	case ReadWrite:
		return "RW"
	case Failed:
		return "ERR"
	}
	return strconv.Itoa(int(m))
}

// A Replica is one of a controller's.
type Replica struct {
	Address string // host:port of its gRPC server
	Mode    Mode
}

// Replicas lists the controller's replicas.
func (c *Client) Replicas(ctx context.Context) ([]Replica, error) {
	b, err := c.call(ctx, controller+"ReplicaList", nil)
	if err != nil {
		return nil, err
	}
	return replicasOf(b)
}

func replicasOf(b []byte) (list []Replica, err error) {
	err = fields(b, func(f *field) error {
		if !f.is(1, protowire.BytesType) {
			return nil
		}
		var r Replica
		if len(list) == maxReplicas {
			return fmt.Errorf("more than %d replicas", maxReplicas)
		}
		err := fields(f.bytes, func(f *field) error {
			switch {
			case f.is(1, protowire.BytesType):
				return fields(f.bytes, func(f *field) error {
					if f.is(1, protowire.BytesType) {
						r.Address = strings.TrimPrefix(f.string(), "tcp://")
					}
					return nil
				})
			case f.is(2, protowire.VarintType):
				r.Mode = Mode(int32(f.value))
			}
			return nil
		})
		list = append(list, r)
		return err
	})
	return list, err
}

// A Disk is one file of a replica: its head, or a snapshot.
type Disk struct {
	Name    string // the file's
	Parent  string
	Removed bool // marked to be removed
	User    bool // made by somebody; others are the engine's own
	Created time.Time
	Size    int64 // bytes that it takes up
}

// A Chain is what a replica tells of itself.
type Chain struct {
	Size       int64 // of the volume, bytes
	Head       string
	State      string
	Rebuilding bool
	Disks      map[string]Disk
}

// Chain asks a replica for its files.
func (c *Client) Chain(ctx context.Context) (Chain, error) {
	b, err := c.call(ctx, replica+"ReplicaGet", nil)
	if err != nil {
		return Chain{}, err
	}
	return chainOf(b)
}

func chainOf(b []byte) (Chain, error) {
	ch := Chain{Disks: map[string]Disk{}}
	bad := error(nil)
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil && s != "" {
			bad = err
		}
		return n
	}
	err := fields(b, func(f *field) error {
		if !f.is(1, protowire.BytesType) {
			return nil
		}
		return fields(f.bytes, func(f *field) error {
			switch {
			case f.is(2, protowire.VarintType):
				ch.Rebuilding = f.value != 0
			case f.is(3, protowire.BytesType):
				ch.Head = f.string()
			case f.is(5, protowire.BytesType):
				ch.Size = number(f.string())
			case f.is(8, protowire.BytesType):
				ch.State = f.string()
			case f.is(10, protowire.BytesType): // a map's entry
				if len(ch.Disks) == maxSnapshots {
					return fmt.Errorf("more than %d snapshots", maxSnapshots)
				}
				var d Disk
				key := ""
				err := fields(f.bytes, func(f *field) error {
					switch {
					case f.is(1, protowire.BytesType):
						key = f.string()
					case f.is(2, protowire.BytesType):
						return fields(f.bytes, func(f *field) error {
							switch {
							case f.is(1, protowire.BytesType):
								d.Name = f.string()
							case f.is(2, protowire.BytesType):
								d.Parent = f.string()
							case f.is(4, protowire.VarintType):
								d.Removed = f.value != 0
							case f.is(5, protowire.VarintType):
								d.User = f.value != 0
							case f.is(6, protowire.BytesType):
								d.Created, _ = time.Parse(time.RFC3339, f.string()) // not told, otherwise
							case f.is(7, protowire.BytesType):
								d.Size = number(f.string())
							}
							return nil
						})
					}
					return nil
				})
				ch.Disks[key] = d
				return err
			}
			return nil
		})
	})
	if err == nil {
		err = bad
	}
	return ch, err
}

// MarkRemoved marks a replica's snapshot as one that Purge removes.
func (c *Client) MarkRemoved(ctx context.Context, name string) error {
	_, err := c.call(ctx, replica+"DiskMarkAsRemoved", message(nil).text(1, name))
	return err
}

// A Status is how far long work of a sync agent has come.
type Status struct {
	Running bool
	Error   string
	Percent int
	State   string // "in_progress", "complete", "error"; empty: there was none
}

func statusOf(b []byte) (s Status, err error) {
	err = fields(b, func(f *field) error {
		switch {
		case f.is(1, protowire.VarintType):
			s.Running = f.value != 0
		case f.is(2, protowire.BytesType):
			s.Error = f.string()
		case f.is(3, protowire.VarintType):
			s.Percent = int(int32(f.value))
		case f.is(4, protowire.BytesType):
			s.State = f.string()
		}
		return nil
	})
	return s, err
}

func (c *Client) status(ctx context.Context, method string) (Status, error) {
	b, err := c.call(ctx, agent+method, nil)
	if err != nil {
		return Status{}, err
	}
	return statusOf(b)
}

// Purge begins to remove what is marked, by joining files. PurgeStatus tells how far that is.
func (c *Client) Purge(ctx context.Context) error {
	_, err := c.call(ctx, agent+"SnapshotPurge", nil)
	return err
}

// PurgeStatus: see Purge.
func (c *Client) PurgeStatus(ctx context.Context) (Status, error) {
	return c.status(ctx, "SnapshotPurgeStatus")
}

// A CloneRequest tells the sync agent of a replica of the new volume where the contents come from.
type CloneRequest struct {
	From     string // host:port of a replica of the old volume
	Volume   string // the old volume
	ToHost   string // host of this sync agent, as the old replica reaches it
	Snapshot string // the snapshot's file
}

// Clone copies a snapshot of another volume into this replica; it returns when that has ended. CloneStatus tells how far that is.
func (c *Client) Clone(ctx context.Context, r CloneRequest) error {
	m := message(nil).text(1, "tcp://"+r.From).text(2, r.ToHost).text(3, r.Snapshot).number(5, cloneTimeout).text(6, r.Volume)
	_, err := c.call(ctx, agent+"SnapshotClone", m)
	return err
}

const cloneTimeout = 5 // seconds of the copy's HTTP client, as the engine's own tool has it

// CloneStatus: see Clone.
func (c *Client) CloneStatus(ctx context.Context) (Status, error) {
	return c.status(ctx, "SnapshotCloneStatus")
}

// AgentOf is the address of the sync agent of the replica at addr: two ports above it.
func AgentOf(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", err
	}
	n, err := strconv.Atoi(port)
	if err != nil || n < 1 || n > 65533 {
		return "", errors.New("a replica at " + addr)
	}
	return net.JoinHostPort(host, strconv.Itoa(n+2)), nil
}
