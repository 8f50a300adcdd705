package web

import (
	"context"
	"io"

	"sandglass"
)

// Environments are the declared environments. Errors: environment.not_found for an unknown
// name, config.invalid for a declaration that is wrong, environment.busy while an operation runs on it.
type Environments interface {
	// Apply declares the environment, new or changed, for the person by. What deserves attention
	// but did not prevent it comes back as findings.
	Apply(ctx context.Context, e sandglass.Environment, by string) ([]sandglass.Finding, error)
	// List gives all environments by name.
	List(ctx context.Context) ([]sandglass.EnvironmentStatus, error)
	Get(ctx context.Context, name string) (sandglass.EnvironmentStatus, error)
	// Remove ends its recording, drops its slot and forgets it; its history stays in the repository
	// until a production's default retention takes it. Where production can't be reached, a finding says how to drop the slot.
	Remove(ctx context.Context, name, by string) ([]sandglass.Finding, error)
	// Connect says how a person reaches the environment's database; "" means its first.
	Connect(ctx context.Context, name, database string) (sandglass.Connection, error)
	// CheckPack says what each rule and question of a pack meets in the environment's databases as they are now; pack.not_found.
	CheckPack(ctx context.Context, name, pack string) ([]sandglass.RuleCheck, error)
}

// Operations are the durable pieces of work. Errors: operation.not_found for an unknown id.
type Operations interface {
	// Plan says what Start would do; it changes nothing.
	Plan(ctx context.Context, r sandglass.Request) (sandglass.Plan, error)
	// Start records the operation and returns at once; environment.busy while another runs on the target.
	Start(ctx context.Context, r sandglass.Request, by string) (sandglass.Operation, error)
	// List gives operations, newest first.
	List(ctx context.Context, q sandglass.OperationQuery) ([]sandglass.Operation, error)
	// Wait returns the operation as soon as its version is greater than after, or when ctx ends, then with ctx's
	// error. With after < 0 it returns at once.
	Wait(ctx context.Context, id string, after int64) (sandglass.Operation, error)
	// Cancel asks the operation to stop and go back; operation.too_late_to_cancel, operation.finished.
	Cancel(ctx context.Context, id, by string) (sandglass.Operation, error)
	// Retry goes on with a way back that was given up; operation.nothing_to_retry.
	Retry(ctx context.Context, id, by string) (sandglass.Operation, error)
	// Logs writes a zip of the plan, the findings, each step's log, PostgreSQL's logs and the timings. An error
	// before the first byte is answered as such.
	Logs(ctx context.Context, id string, w io.Writer) error
}

// Recordings start and stop the recorders of environments.
type Recordings interface {
	// StartRecording checks the safety rules and begins; a refusal that may be waived is waived by its code in accept.
	StartRecording(ctx context.Context, environment string, accept []sandglass.Code, by string) ([]sandglass.Finding, error)
	// StopRecording ends the recording and drops the slot, or says in a finding how to drop it.
	StopRecording(ctx context.Context, environment, by string) ([]sandglass.Finding, error)
	// TakeImage asks for an image now and returns at once; the recorder's status shows its progress.
	TakeImage(ctx context.Context, environment, by string) error
}

// Windows say what can be restored.
type Windows interface {
	Window(ctx context.Context, environment string) (sandglass.Window, error)
	// Resolve turns a moment into the range of positions that is exactly it, or refuses with the nearest moments.
	Resolve(ctx context.Context, environment string, m sandglass.Moment) (sandglass.Range, error)
	// Commits gives transactions with the rows they changed, oldest first.
	Commits(ctx context.Context, environment string, q sandglass.CommitQuery) ([]sandglass.Commit, error)
}

// Volumes are the copies on this host.
type Volumes interface {
	// Volumes lists those of one environment, or of all for "".
	Volumes(ctx context.Context, environment string) ([]sandglass.Volume, error)
	// Drop removes a kept volume; volume.in_use for any other. One with WAL that the repository lacks, and that can't be
	// brought in, is removed only with force (volume.not_drained).
	Drop(ctx context.Context, id string, force bool, by string) error
}

// Repository is where images and WAL are kept. Progress functions are called from the calling goroutine.
type Repository interface {
	Info(ctx context.Context) (sandglass.RepositoryInfo, error)
	// PlanPrune says what retention no longer needs; it removes nothing.
	PlanPrune(ctx context.Context) (sandglass.PrunePlan, error)
	// ExecutePrune removes what the plan of that ID lists, once.
	ExecutePrune(ctx context.Context, id, by string, progress func(sandglass.Progress)) (sandglass.PrunePlan, error)
	// Verify reads the repository; with again, also what was verified before.
	Verify(ctx context.Context, again bool, progress func(sandglass.Progress)) (sandglass.VerifyReport, error)
}

// Peeks are the open copies for reading lost rows; one is opened by Operations.Start with KindPeek, and is in this list once that operation has succeeded.
type Peeks interface {
	Peeks(ctx context.Context) ([]sandglass.Peek, error)
	Peek(ctx context.Context, id string) (sandglass.Peek, error)
	// EndPeek closes it and removes its copy.
	EndPeek(ctx context.Context, id, by string) error
}

// Doctor examines the installation.
type Doctor interface {
	Doctor(ctx context.Context) ([]sandglass.Finding, error)
}

// Parts are what the API speaks for. All are needed.
type Parts struct {
	Environments Environments
	Operations   Operations
	Recordings   Recordings
	Windows      Windows
	Volumes      Volumes
	Repository   Repository
	Peeks        Peeks
	Doctor       Doctor
}
