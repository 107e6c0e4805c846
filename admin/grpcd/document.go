package grpcd

import (
	"context"

	"google.golang.org/protobuf/protoadapt"

	"github.com/lunar-iscsi/lunar/admin"
	"github.com/lunar-iscsi/lunar/admin/api/conv"
	api "github.com/lunar-iscsi/lunar/admin/api/lunar/v1"
	"github.com/lunar-iscsi/lunar/admin/spec"
)

type config struct {
	api.UnimplementedConfigServiceServer
	s *Server
}

func (c *config) GetDocument(context.Context, *api.GetDocumentRequest) (*api.GetDocumentResponse, error) {
	d := c.s.svc.Document()
	return &api.GetDocumentResponse{Document: conv.FromDocument(&d)}, nil
}

func (c *config) ApplyDocument(ctx context.Context, q *api.ApplyDocumentRequest) (*api.ApplyDocumentResponse, error) {
	if q.GetDocument() == nil {
		return nil, invalid("an empty document removes everything; it has to be there", "document: not given")
	}
	want, err := conv.ToDocument(q.GetDocument())
	if err != nil {
		return nil, err
	}
	if err := c.keepSecrets(&want); err != nil {
		return nil, err
	}
	steps, err := c.s.svc.Apply(ctx, want, admin.ApplyOptions{DryRun: q.GetDryRun(), Force: q.GetForce(), Keep: q.GetKeep()})
	if err != nil {
		return nil, toStatus(err, protoadapt.MessageV1Of(&api.ApplyProgress{Steps: conv.FromSteps(steps)}))
	}
	return &api.ApplyDocumentResponse{Steps: conv.FromSteps(steps)}, nil
}

// keepSecrets gives accounts without a secret the one that they have. Documents that a caller has got and changed have none, since none is ever told.
func (c *config) keepSecrets(d *spec.Document) error {
	var have map[string]string
	for i := range d.Accounts {
		a := &d.Accounts[i]
		if a.Secret != "" {
			continue
		}
		if have == nil {
			have = map[string]string{}
			for _, x := range c.s.svc.Document().Accounts {
				have[x.Name] = x.Secret
			}
		}
		secret, ok := have[a.Name]
		if !ok {
			return invalid("give it", "accounts[%d]: account %q is new and has no secret", i, a.Name)
		}
		a.Secret = secret
	}
	return nil
}
