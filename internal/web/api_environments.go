package web

// Environments and their recordings.

import (
	"context"
	"net/http"

	"sandglass"
)

// Applied is the answer to a declaration.
type Applied struct {
	Environment sandglass.EnvironmentStatus `json:"environment"`
	Findings    []sandglass.Finding         `json:"findings"`
}

// EnvironmentPath names the environment; exported, as huma fills only exported fields.
type EnvironmentPath struct {
	Environment string `path:"environment" maxLength:"64" doc:"Name of the environment."`
}

func (a *api) environments() {
	handle(a, route{id: "list-environments", method: "GET", path: "/v1/environments", summary: "All environments with what they are doing"},
		func(ctx context.Context, _ *struct{}) ([]sandglass.EnvironmentStatus, error) {
			return list(a.Environments.List(ctx))
		})
	handle(a, route{id: "get-environment", method: "GET", path: "/v1/environments/{environment}", summary: "One environment"},
		func(ctx context.Context, in *EnvironmentPath) (sandglass.EnvironmentStatus, error) {
			return a.Environments.Get(ctx, in.Environment)
		})
	handle(a, route{id: "apply-environment", method: "PUT", path: "/v1/environments/{environment}", summary: "Declare an environment, new or changed"},
		a.apply)
	handle(a, route{id: "remove-environment", method: "DELETE", path: "/v1/environments/{environment}", summary: "End its recording, drop its slot and forget it; its history stays"},
		func(ctx context.Context, in *EnvironmentPath) ([]sandglass.Finding, error) {
			return list(a.Environments.Remove(ctx, in.Environment, askedBy(ctx)))
		})
	type connectInput struct {
		EnvironmentPath
		Database string `query:"database" doc:"Name of the database; default: its first."`
	}
	handle(a, route{id: "connect", method: "GET", path: "/v1/environments/{environment}/connection", summary: "How a person reaches its database"},
		func(ctx context.Context, in *connectInput) (sandglass.Connection, error) {
			return a.Environments.Connect(ctx, in.Environment, in.Database)
		})
	type packInput struct {
		EnvironmentPath
		Pack string `path:"pack" maxLength:"64" doc:"Name of the pack."`
	}
	handle(a, route{id: "check-pack", method: "GET", path: "/v1/environments/{environment}/packs/{pack}", summary: "What a pack's rules meet in its databases as they are now"},
		func(ctx context.Context, in *packInput) ([]sandglass.RuleCheck, error) {
			return list(a.Environments.CheckPack(ctx, in.Environment, in.Pack))
		})
}

type applyInput struct {
	EnvironmentPath
	Body sandglass.Environment
}

func (a *api) apply(ctx context.Context, in *applyInput) (Applied, error) {
	if in.Body.Name != in.Environment {
		return Applied{}, &sandglass.Error{Code: sandglass.CodeUsage, Op: "apply",
			Message: "The address names environment \"" + in.Environment + "\" and the declaration \"" + in.Body.Name + "\".",
			Remedy:  "Use the same name in both; an environment is not renamed."}
	}
	findings, err := list(a.Environments.Apply(ctx, in.Body, askedBy(ctx)))
	if err != nil {
		return Applied{}, err
	}
	status, err := a.Environments.Get(ctx, in.Environment)
	return Applied{Environment: status, Findings: findings}, err
}

func (a *api) recordings() {
	type startInput struct {
		EnvironmentPath
		Body struct {
			Accept []sandglass.Code `json:"accept,omitempty" doc:"Codes of refusals that are waived."`
		}
	}
	handle(a, route{id: "start-recording", method: "POST", path: "/v1/environments/{environment}/recording", summary: "Begin to record"},
		func(ctx context.Context, in *startInput) ([]sandglass.Finding, error) {
			return list(a.Recordings.StartRecording(ctx, in.Environment, in.Body.Accept, askedBy(ctx)))
		})
	handle(a, route{id: "stop-recording", method: "DELETE", path: "/v1/environments/{environment}/recording", summary: "End the recording and drop its slot"},
		func(ctx context.Context, in *EnvironmentPath) ([]sandglass.Finding, error) {
			return list(a.Recordings.StopRecording(ctx, in.Environment, askedBy(ctx)))
		})
	type imageOutput struct{}
	handle(a, route{id: "take-image", method: "POST", path: "/v1/environments/{environment}/images", status: http.StatusAccepted, summary: "Ask for an image now"},
		func(ctx context.Context, in *EnvironmentPath) (imageOutput, error) {
			return imageOutput{}, a.Recordings.TakeImage(ctx, in.Environment, askedBy(ctx))
		})
}
