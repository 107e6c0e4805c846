package grpcd

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"github.com/lunar-iscsi/lunar/admin"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/backstore"
)

// A refusal is what a code of the service is in gRPC.
type refusal struct {
	status codes.Code
	code   api.ErrorCode
	force  bool // the same call with force would be carried out
}

// refusals is the translator between the service's errors and gRPC: there is no other.
var refusals = map[admin.Code]refusal{
	admin.Internal:         {codes.Internal, api.ErrorCode_ERROR_CODE_INTERNAL, false},
	admin.Invalid:          {codes.InvalidArgument, api.ErrorCode_ERROR_CODE_INVALID, false},
	admin.NoTarget:         {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_TARGET, false},
	admin.NoLUN:            {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_LUN, false},
	admin.NoSession:        {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_SESSION, false},
	admin.NoConnection:     {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_CONNECTION, false},
	admin.NoAccount:        {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_ACCOUNT, false},
	admin.NoPortal:         {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_PORTAL, false},
	admin.NoRule:           {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_RULE, false},
	admin.NotBound:         {codes.NotFound, api.ErrorCode_ERROR_CODE_NOT_BOUND, false},
	admin.TargetExists:     {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_TARGET_EXISTS, false},
	admin.LUNExists:        {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_LUN_EXISTS, false},
	admin.AccountExists:    {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_ACCOUNT_EXISTS, false},
	admin.PortalExists:     {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_PORTAL_EXISTS, false},
	admin.RuleExists:       {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_RULE_EXISTS, false},
	admin.OutgoingExists:   {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_OUTGOING_EXISTS, false},
	admin.TargetInUse:      {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_TARGET_IN_USE, true},
	admin.LUNInUse:         {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_LUN_IN_USE, true},
	admin.RemovalPrevented: {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_REMOVAL_PREVENTED, false},
	admin.WouldShrink:      {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_WOULD_SHRINK, true},
	admin.Unsupported:      {codes.Unimplemented, api.ErrorCode_ERROR_CODE_UNSUPPORTED, false},
	admin.TooMany:          {codes.ResourceExhausted, api.ErrorCode_ERROR_CODE_TOO_MANY, false},
	admin.OpenFailed:       {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_OPEN_FAILED, false},
	admin.SaveFailed:       {codes.Internal, api.ErrorCode_ERROR_CODE_SAVE_FAILED, false},
	admin.Timeout:          {codes.DeadlineExceeded, api.ErrorCode_ERROR_CODE_TIMEOUT, false},
	admin.ShuttingDown:     {codes.Unavailable, api.ErrorCode_ERROR_CODE_SHUTTING_DOWN, false},
	admin.NoVolume:         {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_VOLUME, false},
	admin.NoSnapshot:       {codes.NotFound, api.ErrorCode_ERROR_CODE_NO_SNAPSHOT, false},
	admin.VolumeExists:     {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_VOLUME_EXISTS, false},
	admin.SnapshotExists:   {codes.AlreadyExists, api.ErrorCode_ERROR_CODE_SNAPSHOT_EXISTS, false},
	admin.VolumeInUse:      {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_VOLUME_IN_USE, false},
	admin.VolumeBusy:       {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_VOLUME_BUSY, false},
	admin.WouldDestroy:     {codes.FailedPrecondition, api.ErrorCode_ERROR_CODE_WOULD_DESTROY, true},
	admin.VolumeFailed:     {codes.Internal, api.ErrorCode_ERROR_CODE_VOLUME_FAILED, false},
	admin.Cancelled:        {codes.Canceled, api.ErrorCode_ERROR_CODE_CANCELLED, false},
}

// toStatus makes of an error the status that a call ends with, further details with it. An error that is a status already stays as it is.
func toStatus(err error, more ...protoadapt.MessageV1) error {
	if err == nil {
		return nil
	}
	var e *admin.Error
	if !errors.As(err, &e) {
		if _, is := status.FromError(err); is {
			return err
		}
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return status.FromContextError(err).Err()
		}
		e = &admin.Error{Code: admin.Internal, Err: err}
	}
	r, known := refusals[e.Code]
	if !known {
		r = refusals[admin.Internal]
	}
	bare := *e // the hint has a place of its own
	bare.Hint = ""
	st := status.New(r.status, clean(bare.Error()))
	detail := &api.ErrorDetail{Code: r.code, Hint: clean(e.Hint), ForceHelps: r.force}
	if store := (*backstore.Error)(nil); errors.As(err, &store) {
		detail.VolumeClass = store.Class.String()
	}
	if with, derr := st.WithDetails(append([]protoadapt.MessageV1{protoadapt.MessageV1Of(detail)}, more...)...); derr == nil {
		st = with
	}
	return st.Err()
}

// clean is s as a message can hold it, on one line.
func clean(s string) string {
	return strings.Join(strings.FieldsFunc(strings.ToValidUTF8(s, "�"), func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

// invalid is what the service would say of a call that makes no sense.
func invalid(hint, format string, args ...any) error {
	e := admin.Errorf(admin.Invalid, format, args...)
	e.Hint = hint
	return e
}

// missing reports whether err says that what a call names is not there, and is one of these codes.
func missing(err error, of ...admin.Code) bool {
	if err == nil {
		return false
	}
	c := admin.CodeOf(err)
	for _, o := range of {
		if c == o {
			return true
		}
	}
	return false
}
