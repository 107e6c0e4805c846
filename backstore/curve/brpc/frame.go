package brpc

import (
	"encoding/binary"
	"errors"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The protocol's sizes.
const (
	HeaderSize = 12
	// MaxBody is the most that meta, message and attachment may have together (brpc's max_body_size); a server ends the connection on which more comes.
	MaxBody = 64 << 20
)

// Field numbers of RpcMeta, RpcRequestMeta and RpcResponseMeta.
const (
	metaRequest     = 1
	metaResponse    = 2
	metaCompress    = 3
	metaCorrelation = 4
	metaAttachment  = 5

	requestService = 1
	requestMethod  = 2
	requestLogID   = 3

	responseCode = 1
	responseText = 2
)

// A Meta is an RpcMeta. Byte slices that ParseMeta has set lie in the frame.
type Meta struct {
	IsRequest bool
	Service   []byte // the full name of a request's service
	Method    []byte
	LogID     int64

	Code int32  // of a response; 0: no error
	Text []byte // what a server says to it

	Compress      int32 // how the message is compressed; 0: not at all
	CorrelationID int64
	Attachment    int64 // its bytes, as the peer says: not yet checked
}

var (
	errMagic = errors.New("it does not begin with PRPC: the peer does not speak baidu_std")
	errMeta  = errors.New("its meta is larger than its body")
)

// ParseHeader reads the first HeaderSize bytes of a frame: the bytes of the body, which follow them, and how many of these are the meta.
func ParseHeader(b []byte) (body, meta int, err error) {
	if string(b[:4]) != "PRPC" {
		return 0, 0, errMagic
	}
	bodySize, metaSize := binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	if bodySize > MaxBody {
		return 0, 0, fmt.Errorf("a frame of %d bytes; the most is %d", bodySize, MaxBody)
	}
	if metaSize > bodySize {
		return 0, 0, errMeta
	}
	return int(bodySize), int(metaSize), nil
}

// AppendRequest appends a request to b up to its attachment, of attachment bytes, which the caller sends behind it. A logID of 0 is left out.
func AppendRequest(b []byte, service, method string, logID, correlationID int64, message []byte, attachment int) []byte {
	start := len(b)
	b = appendHeader(b)
	n := stringSize(requestService, service) + stringSize(requestMethod, method)
	if logID != 0 {
		n += protowire.SizeTag(requestLogID) + protowire.SizeVarint(uint64(logID))
	}
	b = protowire.AppendTag(b, metaRequest, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	b = protowire.AppendTag(b, requestService, protowire.BytesType)
	b = protowire.AppendString(b, service)
	b = protowire.AppendTag(b, requestMethod, protowire.BytesType)
	b = protowire.AppendString(b, method)
	if logID != 0 {
		b = protowire.AppendTag(b, requestLogID, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(logID))
	}
	return finish(b, start, correlationID, message, attachment)
}

// AppendResponse appends a response, likewise. One with a code other than 0 has neither message nor attachment.
func AppendResponse(b []byte, code int32, text string, correlationID int64, message []byte, attachment int) []byte {
	start := len(b)
	b = appendHeader(b)
	n := protowire.SizeTag(responseCode) + protowire.SizeVarint(uint64(int64(code)))
	if text != "" {
		n += stringSize(responseText, text)
	}
	b = protowire.AppendTag(b, metaResponse, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(n))
	b = protowire.AppendTag(b, responseCode, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(int64(code)))
	if text != "" {
		b = protowire.AppendTag(b, responseText, protowire.BytesType)
		b = protowire.AppendString(b, text)
	}
	return finish(b, start, correlationID, message, attachment)
}

func stringSize(num protowire.Number, s string) int {
	return protowire.SizeTag(num) + protowire.SizeBytes(len(s))
}

func appendHeader(b []byte) []byte { return append(b, 'P', 'R', 'P', 'C', 0, 0, 0, 0, 0, 0, 0, 0) }

// finish appends the rest of the meta, and the message, and puts the sizes in the header at start. A compress type of 0 is written, as brpc does.
func finish(b []byte, start int, correlationID int64, message []byte, attachment int) []byte {
	b = protowire.AppendTag(b, metaCompress, protowire.VarintType)
	b = append(b, 0)
	b = protowire.AppendTag(b, metaCorrelation, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(correlationID))
	if attachment > 0 {
		b = protowire.AppendTag(b, metaAttachment, protowire.VarintType)
		b = protowire.AppendVarint(b, uint64(attachment))
	}
	meta := len(b) - start - HeaderSize
	b = append(b, message...)
	binary.BigEndian.PutUint32(b[start+4:], uint32(meta+len(message)+attachment))
	binary.BigEndian.PutUint32(b[start+8:], uint32(meta))
	return b
}

// ParseMeta reads a frame's meta into m. It allocates only for an error.
func ParseMeta(b []byte, m *Meta) error {
	*m = Meta{}
	var has bool
	for len(b) > 0 {
		f, rest, err := NextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch f.Number {
		case metaRequest, metaResponse:
			if f.Type != protowire.BytesType {
				return badField(f)
			}
			if has && m.IsRequest != (f.Number == metaRequest) {
				return errors.New("its meta is a request's and a response's")
			}
			m.IsRequest, has = f.Number == metaRequest, true
			if err := m.inner(f.Bytes); err != nil {
				return err
			}
		case metaCompress, metaCorrelation, metaAttachment:
			if f.Type != protowire.VarintType {
				return badField(f)
			}
			switch f.Number {
			case metaCompress:
				m.Compress = int32(f.Value)
			case metaCorrelation:
				m.CorrelationID = int64(f.Value)
			default:
				m.Attachment = int64(int32(f.Value))
			}
		}
	}
	if !has {
		return errors.New("its meta is neither a request's nor a response's")
	}
	return nil
}

// inner reads an RpcRequestMeta or RpcResponseMeta.
func (m *Meta) inner(b []byte) error {
	for len(b) > 0 {
		f, rest, err := NextField(b)
		if err != nil {
			return err
		}
		b = rest
		switch {
		case f.Number > 3:
		case m.IsRequest && f.Number == requestService && f.Type == protowire.BytesType:
			m.Service = f.Bytes
		case m.IsRequest && f.Number == requestMethod && f.Type == protowire.BytesType:
			m.Method = f.Bytes
		case m.IsRequest && f.Number == requestLogID && f.Type == protowire.VarintType:
			m.LogID = int64(f.Value)
		case !m.IsRequest && f.Number == responseCode && f.Type == protowire.VarintType:
			m.Code = int32(f.Value)
		case !m.IsRequest && f.Number == responseText && f.Type == protowire.BytesType:
			m.Text = f.Bytes
		default:
			return badField(f)
		}
	}
	return nil
}

func badField(f Field) error { return fmt.Errorf("field %d has wire type %d", f.Number, f.Type) }

// A Field is one field of a protobuf message.
type Field struct {
	Number protowire.Number
	Type   protowire.Type
	Value  uint64 // of a varint, fixed32 or fixed64
	Bytes  []byte // of a string, bytes or a message; lies in what was parsed
}

// NextField reads the first field of b and returns what is behind it.
func NextField(b []byte) (f Field, rest []byte, err error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return f, nil, protowire.ParseError(n)
	}
	f.Number, f.Type = num, typ
	b = b[n:]
	switch typ {
	case protowire.VarintType:
		f.Value, n = protowire.ConsumeVarint(b)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(b)
		f.Value = uint64(v)
	case protowire.Fixed64Type:
		f.Value, n = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		f.Bytes, n = protowire.ConsumeBytes(b)
	default:
		return f, nil, fmt.Errorf("field %d has wire type %d", num, typ) // groups are in no message of Curve
	}
	if n < 0 {
		return f, nil, protowire.ParseError(n)
	}
	return f, b[n:], nil
}

// Fields calls each for every field of a message, in order, until one returns an error.
func Fields(b []byte, each func(Field) error) error {
	for len(b) > 0 {
		f, rest, err := NextField(b)
		if err != nil {
			return err
		}
		if err := each(f); err != nil {
			return err
		}
		b = rest
	}
	return nil
}
