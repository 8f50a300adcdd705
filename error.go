package sandglass

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code is the stable name of a refusal or failure, "noun.problem". It never changes its meaning.
type Code string

// Codes that more than one part of Sandglass gives. A package may define further codes of
// its own; Outcome knows them by their first word.
const (
	CodeInternal     Code = "internal"
	CodeUsage        Code = "usage"
	CodeUnauthorized Code = "unauthorized"

	CodeEnvironmentUnknown Code = "environment.not_found"
	CodeEnvironmentBusy    Code = "environment.busy"
	CodeEnvironmentKind    Code = "environment.is_production"
	CodeEnvironmentEmpty   Code = "environment.empty"
	CodeEnvironmentLive    Code = "environment.is_live_production"

	CodeMomentSyntax     Code = "moment.not_a_time"
	CodeMomentNoZone     Code = "moment.no_zone"
	CodeMomentAmbiguous  Code = "moment.ambiguous_hour"
	CodeMomentFuture     Code = "moment.in_future"
	CodeMomentBefore     Code = "moment.before_window"
	CodeMomentGap        Code = "moment.in_gap"
	CodeMomentUnsettled  Code = "moment.not_settled"
	CodeMomentNotHeld    Code = "moment.not_received"
	CodeMomentNotFound   Code = "moment.not_found" // no such xid or restore point
	CodeMomentClockStep  Code = "moment.clock_stepped_back"
	CodeMomentMinimalWAL Code = "moment.wal_level_minimal"
	CodeMomentTablespace Code = "moment.beyond_tablespace_change"
	CodeMomentParameter  Code = "moment.beyond_parameter_change"
	CodeWindowEmpty      Code = "window.empty"

	CodeProductionUnreachable Code = "production.unreachable"
	CodeProductionPassword    Code = "production.wrong_password"
	CodeProductionGrants      Code = "production.missing_grants"
	CodeProductionWALLevel    Code = "production.wal_level_minimal"
	CodeProductionSenders     Code = "production.no_wal_senders"
	CodeProductionSlotCap     Code = "production.slot_cap_unlimited"
	CodeProductionSync        Code = "production.synchronous_standby"
	CodeProductionMajor       Code = "production.major_unsupported"
	CodeSlotMissing           Code = "slot.missing"
	CodeSlotTaken             Code = "slot.taken"
	CodeSlotLost              Code = "slot.lost"
	CodeHistoryForked         Code = "history.forked"

	CodeRepositoryMissing Code = "repository.not_found"
	CodeRepositoryForeign Code = "repository.foreign"
	CodeRepositoryDamaged Code = "repository.damaged"
	CodeRepositoryFull    Code = "repository.disk_full"
	CodeKeyMissing        Code = "key.missing"
	CodeKeyWrong          Code = "key.wrong"
	CodeDiskFull          Code = "disk.full"

	CodeBinariesMissing Code = "binaries.missing"
	CodeSealNamespace   Code = "seal.no_namespace"
	CodeServerFailed    Code = "server.failed"
	CodeRecoveryFailed  Code = "recovery.failed"
	CodeHealthFailed    Code = "health.failed"

	CodeOperationUnknown  Code = "operation.not_found"
	CodeOperationFinished Code = "operation.finished"
	CodeOperationTooLate  Code = "operation.too_late_to_cancel"
	CodeCancelled         Code = "operation.cancelled"
	CodePreflight         Code = "preflight.stopped"
	CodeVolumeUnknown     Code = "volume.not_found"
	CodeVolumeInUse       Code = "volume.in_use"
	CodeNothingToUndo     Code = "undo.nothing_kept"
	CodePlanUnknown       Code = "plan.not_found" // of a prune
	CodePlanExecuted      Code = "plan.executed"
	CodeConfig            Code = "config.invalid"
	CodeServeUnreachable  Code = "serve.unreachable"
	CodeServeRunning      Code = "serve.running" // another one already does
)

// Error is every refusal and failure that a person sees.
type Error struct {
	Code Code `json:"code"`
	// Op is what was being done ("resolve moment"); for logs.
	Op string `json:"op,omitempty"`
	// Message is one human sentence; Remedy says what the person can do.
	Message string `json:"message"`
	Remedy  string `json:"remedy,omitempty"`
	// Before and After are the nearest moments that can be had, where the refusal is of a moment.
	Before time.Time `json:"nearest_before,omitzero"`
	After  time.Time `json:"nearest_after,omitzero"`
	// Err is the cause, for logs; it is never shown to a user.
	Err error `json:"-"`
}

// Error is the text for logs: operation, code, sentence and cause.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Op != "" {
		b.WriteString(e.Op + ": ")
	}
	fmt.Fprintf(&b, "%s [%s]", e.Message, e.Code)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// CodeOf is the code of the first Error in the chain, CodeInternal for a foreign error, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}

// AsError is err as people may see it: the first Error in its chain, or, for a foreign error, an internal one that hides it.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: CodeInternal, Message: "Something went wrong inside Sandglass.",
		Remedy: "The cause is in the log of `sandglass serve`; if it happens again, please report it.", Err: err}
}

// The exit codes of the command line.
const (
	ExitDone         = 0
	ExitFailed       = 1 // failed and rolled back
	ExitUsage        = 2
	ExitRefused      = 3 // refused by preflight, nothing was changed
	ExitNotFound     = 4
	ExitUnreachable  = 5 // the control plane, production or its credentials
	ExitUnauthorized = 6
	ExitDamaged      = 7 // the repository is missing, foreign or damaged, or its key is
	ExitBusy         = 8 // somebody else is at it; try again later
	ExitInternal     = 9
	ExitCancelled    = 130
)

// Outcome is the one place where codes become an HTTP status and an exit code.
func Outcome(c Code) (status, exit int) {
	noun, _, _ := strings.Cut(string(c), ".")
	switch {
	case c == "":
		return 200, ExitDone
	case c == CodeInternal:
		return 500, ExitInternal
	case c == CodeUsage, c == CodeConfig, c == CodeMomentSyntax, c == CodeMomentNoZone, c == CodeMomentAmbiguous,
		c == "pack.invalid", c == "pack.not_yet":
		return 422, ExitUsage
	case c == CodeUnauthorized:
		return 401, ExitUnauthorized
	case c == CodeServeUnreachable:
		return 502, ExitUnreachable
	case c == CodeEnvironmentBusy, c == CodeVolumeInUse, c == CodeOperationFinished, c == CodeOperationTooLate, c == CodeSlotTaken, c == CodeServeRunning, c == CodePlanExecuted:
		return 409, ExitBusy
	case c == CodeRepositoryFull, c == CodeDiskFull:
		return 507, ExitFailed
	case c == CodeCancelled:
		return 409, ExitCancelled
	case strings.HasSuffix(string(c), ".not_found"):
		if noun == "repository" {
			return 409, ExitDamaged
		}
		return 404, ExitNotFound
	case noun == "repository", noun == "key":
		return 409, ExitDamaged
	case c == CodeProductionUnreachable, c == CodeProductionPassword:
		return 502, ExitUnreachable
	case noun == "environment", noun == "moment", noun == "window", noun == "production", noun == "slot", noun == "history",
		noun == "binaries", noun == "seal", noun == "preflight", noun == "undo", noun == "prune_plan", noun == "metadata", noun == "pack",
		noun == "volume", c == "operation.nothing_to_retry":
		return 409, ExitRefused
	}
	return 500, ExitFailed
}
