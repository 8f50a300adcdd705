package client

// The calls of the API, one method each.

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"sandglass"
)

// Applied is the answer to a declaration.
type Applied struct {
	Environment sandglass.EnvironmentStatus `json:"environment"`
	Findings    []sandglass.Finding         `json:"findings"`
}

// Apply declares an environment, new or changed.
func (c *Client) Apply(ctx context.Context, e sandglass.Environment) (Applied, error) {
	return ask[Applied](ctx, c, "PUT", path("environments", e.Name), e)
}

// Environments gives all environments.
func (c *Client) Environments(ctx context.Context) ([]sandglass.EnvironmentStatus, error) {
	return ask[[]sandglass.EnvironmentStatus](ctx, c, "GET", path("environments"), nil)
}

// Environment gives one.
func (c *Client) Environment(ctx context.Context, name string) (sandglass.EnvironmentStatus, error) {
	return ask[sandglass.EnvironmentStatus](ctx, c, "GET", path("environments", name), nil)
}

// RemoveEnvironment ends its recording and forgets it; its history stays in the repository.
func (c *Client) RemoveEnvironment(ctx context.Context, name string) ([]sandglass.Finding, error) {
	return ask[[]sandglass.Finding](ctx, c, "DELETE", path("environments", name), nil)
}

// Connect says how to reach the environment's database; "" means its first.
func (c *Client) Connect(ctx context.Context, name, database string) (sandglass.Connection, error) {
	return ask[sandglass.Connection](ctx, c, "GET", path("environments", name, "connection")+query("database", database), nil)
}

// CheckPack says what each rule and question of a pack meets in the environment's databases as they are now.
func (c *Client) CheckPack(ctx context.Context, environment, pack string) ([]sandglass.RuleCheck, error) {
	return ask[[]sandglass.RuleCheck](ctx, c, "GET", path("environments", environment, "packs", pack), nil)
}

// StartRecording begins to record; accept names refusals that are waived.
func (c *Client) StartRecording(ctx context.Context, environment string, accept []sandglass.Code) ([]sandglass.Finding, error) {
	body := struct {
		Accept []sandglass.Code `json:"accept,omitempty"`
	}{accept}
	return ask[[]sandglass.Finding](ctx, c, "POST", path("environments", environment, "recording"), body)
}

// StopRecording ends the recording.
func (c *Client) StopRecording(ctx context.Context, environment string) ([]sandglass.Finding, error) {
	return ask[[]sandglass.Finding](ctx, c, "DELETE", path("environments", environment, "recording"), nil)
}

// TakeImage asks for an image now; the recorder's status shows its progress.
func (c *Client) TakeImage(ctx context.Context, environment string) error {
	return c.call(ctx, "POST", path("environments", environment, "images"), nil, nil)
}

// Window gives what can be restored.
func (c *Client) Window(ctx context.Context, environment string) (sandglass.Window, error) {
	return ask[sandglass.Window](ctx, c, "GET", path("environments", environment, "window"), nil)
}

// Resolve turns a moment into the range that is exactly it.
func (c *Client) Resolve(ctx context.Context, environment string, m sandglass.Moment) (sandglass.Range, error) {
	return ask[sandglass.Range](ctx, c, "POST", path("environments", environment, "moments"), m)
}

// Commits gives transactions with the rows they changed, oldest first.
func (c *Client) Commits(ctx context.Context, environment string, q sandglass.CommitQuery) ([]sandglass.Commit, error) {
	return ask[[]sandglass.Commit](ctx, c, "GET", path("environments", environment, "commits")+query("from", instant(q.From), "to", instant(q.To),
		"relation", q.Relation, "min_rows", number(q.MinRows), "limit", number(int64(q.Limit))), nil)
}

// Plan says what an operation would do; it changes nothing.
func (c *Client) Plan(ctx context.Context, r sandglass.Request) (sandglass.Plan, error) {
	return ask[sandglass.Plan](ctx, c, "POST", path("plans"), r)
}

// Start starts an operation and returns at once.
func (c *Client) Start(ctx context.Context, r sandglass.Request) (sandglass.Operation, error) {
	return ask[sandglass.Operation](ctx, c, "POST", path("operations"), r)
}

// Operations gives operations, newest first.
func (c *Client) Operations(ctx context.Context, q sandglass.OperationQuery) ([]sandglass.Operation, error) {
	return ask[[]sandglass.Operation](ctx, c, "GET", path("operations")+query("environment", q.Environment, "limit", number(int64(q.Limit))), nil)
}

// Operation gives one.
func (c *Client) Operation(ctx context.Context, id string) (sandglass.Operation, error) {
	return ask[sandglass.Operation](ctx, c, "GET", path("operations", id), nil)
}

// Wait returns the operation as soon as its version is greater than after, or as it is after wait (at most a minute).
func (c *Client) Wait(ctx context.Context, id string, after int64, wait time.Duration) (sandglass.Operation, error) {
	return ask[sandglass.Operation](ctx, c, "GET", path("operations", id)+query("after", strconv.FormatInt(after, 10), "wait", wait.String()), nil)
}

// Cancel asks an operation to stop and go back.
func (c *Client) Cancel(ctx context.Context, id string) (sandglass.Operation, error) {
	return ask[sandglass.Operation](ctx, c, "POST", path("operations", id, "cancel"), nil)
}

// Retry goes on with a way back that was given up.
func (c *Client) Retry(ctx context.Context, id string) (sandglass.Operation, error) {
	return ask[sandglass.Operation](ctx, c, "POST", path("operations", id, "retry"), nil)
}

// Logs writes the operation's zip to w.
func (c *Client) Logs(ctx context.Context, id string, w io.Writer) error {
	r, err := c.send(ctx, http.MethodGet, path("operations", id, "logs"), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if _, err := io.Copy(w, r.Body); err != nil {
		return fmt.Errorf("receive logs of operation %s: %w", id, err)
	}
	return nil
}

// Peeks gives the copies that are open for reading.
func (c *Client) Peeks(ctx context.Context) ([]sandglass.Peek, error) {
	return ask[[]sandglass.Peek](ctx, c, "GET", path("peeks"), nil)
}

// Peek gives one, with how to connect.
func (c *Client) Peek(ctx context.Context, id string) (sandglass.Peek, error) {
	return ask[sandglass.Peek](ctx, c, "GET", path("peeks", id), nil)
}

// EndPeek closes it and removes its copy.
func (c *Client) EndPeek(ctx context.Context, id string) error {
	return c.call(ctx, "DELETE", path("peeks", id), nil, nil)
}

// Volumes gives the copies on the host, of one environment or of all for "".
func (c *Client) Volumes(ctx context.Context, environment string) ([]sandglass.Volume, error) {
	return ask[[]sandglass.Volume](ctx, c, "GET", path("volumes")+query("environment", environment), nil)
}

// DropVolume removes a kept volume; with force, also one whose last WAL could not be brought into the repository.
func (c *Client) DropVolume(ctx context.Context, id string, force bool) error {
	forced := ""
	if force {
		forced = "true"
	}
	return c.call(ctx, "DELETE", path("volumes", id)+query("force", forced), nil, nil)
}

// Repository says what the repository holds.
func (c *Client) Repository(ctx context.Context) (sandglass.RepositoryInfo, error) {
	return ask[sandglass.RepositoryInfo](ctx, c, "GET", path("repository"), nil)
}

// PlanPrune says what retention no longer needs.
func (c *Client) PlanPrune(ctx context.Context) (sandglass.PrunePlan, error) {
	return ask[sandglass.PrunePlan](ctx, c, "POST", path("repository", "prunes"), nil)
}

// ExecutePrune removes what the plan of that ID lists, once.
func (c *Client) ExecutePrune(ctx context.Context, id string, progress func(sandglass.Progress)) (sandglass.PrunePlan, error) {
	return follow[sandglass.PrunePlan](ctx, c, "POST", path("repository", "prunes", id), nil, progress)
}

// Verify reads the repository; with again, also what was verified before.
func (c *Client) Verify(ctx context.Context, again bool, progress func(sandglass.Progress)) (sandglass.VerifyReport, error) {
	body := struct {
		Again bool `json:"again,omitempty"`
	}{again}
	return follow[sandglass.VerifyReport](ctx, c, "POST", path("repository", "verifications"), body, progress)
}

// Doctor examines the installation.
func (c *Client) Doctor(ctx context.Context) ([]sandglass.Finding, error) {
	return ask[[]sandglass.Finding](ctx, c, "GET", path("doctor"), nil)
}

// Version is that of the control plane.
func (c *Client) Version(ctx context.Context) (string, error) {
	var v struct {
		Version string `json:"version"`
	}
	err := c.call(ctx, "GET", path("version"), nil, &v)
	return v.Version, err
}

// query writes names and values, leaving out empty values.
func query(pairs ...string) string {
	q := url.Values{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			q.Set(pairs[i], pairs[i+1])
		}
	}
	if len(q) == 0 {
		return ""
	}
	return "?" + q.Encode()
}

func instant(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Format(time.RFC3339Nano)
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return strconv.FormatInt(n, 10)
}
