package web

// Volumes, the repository, and what is asked of the installation itself.

import (
	"context"
	"reflect"

	"sandglass"
)

func typeFor[T any]() reflect.Type { return reflect.TypeFor[T]() }

func (a *api) volumes() {
	type listInput struct {
		Environment string `query:"environment" doc:"Only those of this environment."`
	}
	handle(a, route{id: "list-volumes", method: "GET", path: "/v1/volumes", summary: "The copies on this host, kept states among them"},
		func(ctx context.Context, in *listInput) ([]sandglass.Volume, error) {
			return list(a.Volumes.Volumes(ctx, in.Environment))
		})
	type volumePath struct {
		ID    string `path:"id" maxLength:"64" doc:"ID of the volume."`
		Force bool   `query:"force" doc:"Also when its last WAL could not be brought into the repository: moments are lost with it."`
	}
	handleNone(a, route{id: "drop-volume", method: "DELETE", path: "/v1/volumes/{id}", summary: "Remove a kept volume"},
		func(ctx context.Context, in *volumePath) error {
			return a.Volumes.Drop(ctx, in.ID, in.Force, askedBy(ctx))
		})
}

func (a *api) repository() {
	handle(a, route{id: "get-repository", method: "GET", path: "/v1/repository", summary: "What the repository holds"},
		func(ctx context.Context, _ *struct{}) (sandglass.RepositoryInfo, error) {
			info, err := a.Repository.Info(ctx)
			info.Recipients, _ = list(info.Recipients, nil)
			info.Environments, _ = list(info.Environments, nil)
			return info, err
		})
	handle(a, route{id: "plan-prune", method: "POST", path: "/v1/repository/prunes", summary: "What retention no longer needs; removes nothing"},
		func(ctx context.Context, _ *struct{}) (sandglass.PrunePlan, error) {
			p, err := a.Repository.PlanPrune(ctx)
			p.Items, _ = list(p.Items, nil)
			return p, err
		})
	type planPath struct {
		ID string `path:"id" maxLength:"64" doc:"ID of the plan."`
	}
	handleStream(a, route{id: "execute-prune", method: "POST", path: "/v1/repository/prunes/{id}", summary: "Remove what a plan lists, once"},
		func(ctx context.Context, in *planPath, progress func(sandglass.Progress)) (sandglass.PrunePlan, error) {
			p, err := a.Repository.ExecutePrune(ctx, in.ID, askedBy(ctx), progress)
			p.Items, _ = list(p.Items, nil)
			return p, err
		})
	type verifyInput struct {
		Body struct {
			Again bool `json:"again,omitempty" doc:"Read also what was verified before."`
		}
	}
	handleStream(a, route{id: "verify-repository", method: "POST", path: "/v1/repository/verifications", summary: "Read the repository and name each damaged object with what it costs"},
		func(ctx context.Context, in *verifyInput, progress func(sandglass.Progress)) (sandglass.VerifyReport, error) {
			r, err := a.Repository.Verify(ctx, in.Body.Again, progress)
			r.Damaged, _ = list(r.Damaged, nil)
			return r, err
		})
}

// Version says what answers.
type Version struct {
	Version string `json:"version"`
}

func (a *api) system() {
	handle(a, route{id: "doctor", method: "GET", path: "/v1/doctor", summary: "Examine the installation"},
		func(ctx context.Context, _ *struct{}) ([]sandglass.Finding, error) { return list(a.Doctor.Doctor(ctx)) })
	handle(a, route{id: "version", method: "GET", path: "/v1/version", summary: "The version of the control plane"},
		func(context.Context, *struct{}) (Version, error) { return Version{a.version}, nil })
}
