# Sandglass. `make` alone lists what can be made.
#
#   INSTALL=no   never install a system package; say what is missing instead
#   SIZE=4GB     of `make bench`: the size of the database it measures

INSTALL ?= yes
SIZE    ?= 4GB
RUNS    ?= 5
MAJORS  ?= /var/cache/sandglass-majors
BIN     := bin/sandglass
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2

.DEFAULT_GOAL := help
.PHONY: help demo test test-long bench build lint lint-go install-postgres install-test-tools install-pgbackrest clean go

help: ## show this list
	@echo "Sandglass: any moment of a production PostgreSQL, in your sandbox. Two commands to begin with:"
	@echo "    make demo    make test"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "INSTALL=no keeps make from installing anything."

demo: go install-postgres build ## do the main job on this machine, in under two minutes; take it down with bin/sandglass demo --down
	@$(BIN) demo

test: go install-postgres install-test-tools ## all tests, against real PostgreSQL servers (under 15 minutes on 2 cores)
	go test -vet=off -timeout 60m ./... # vet is of `make lint`

test-long: go install-postgres ## the full matrices: every crash point, many moments (hours)
	go test -timeout 6h -tags long ./...
	go test -count=1 -timeout 1h -tags 'long crashpoints' -run TestCrashMatrix ./internal/engine
	packaging/majors $(MAJORS)
	SANDGLASS_PG_BIN="$(MAJORS)/*/package/native/bin" go test -count=1 -timeout 1h -tags long -run 'TestEveryMajor|TestMajors' ./test ./internal/wal
	for major in 14 16 17 18; do \
		SANDGLASS_TEST_MAJOR=$$major SANDGLASS_PG_BIN="$(MAJORS)/$$major/package/native/bin" go test -count=1 -timeout 1h ./internal/recorder || exit 1; \
	done

bench: go install-postgres install-pgbackrest build ## measure against pgBackRest, pg_basebackup and pg_receivewal (SIZE=200MB RUNS=1 for a quick look)
	go run ./bench -sandglass $(BIN) -size $(SIZE) -runs $(RUNS)

build: go ## bin/sandglass
	go build -trimpath -ldflags '-X main.version=$(VERSION)' -o $(BIN) ./cmd/sandglass

lint: lint-go ## gofmt, go vet, staticcheck
	go run $(STATICCHECK) ./...
	go run $(STATICCHECK) -tags 'long crashpoints' ./...

lint-go: go
	@test -z "$$(gofmt -l . | tee /dev/stderr)" || { echo "gofmt -w the files above"; exit 1; }
	go vet ./...
	go vet -tags 'long crashpoints' ./...

install-postgres: ## PostgreSQL's server programs from apt, if there are none (not a cluster)
	@INSTALL=$(INSTALL) packaging/install postgresql

install-test-tools: # for tests that follow docs/FORMAT.md and the API with public tools, or need pg_cron; `go test` alone skips these without them
	@INSTALL=$(INSTALL) packaging/install zstd
	@INSTALL=$(INSTALL) packaging/install curl
	@INSTALL=$(INSTALL) packaging/install pg_cron

install-pgbackrest: # for the benchmarks only
	@INSTALL=$(INSTALL) packaging/install pgbackrest

clean: ## remove what make built
	rm -rf bin

go: # not a file: a look whether Go is there
	@command -v go >/dev/null || { echo "Go is missing. Sandglass is built with Go 1.26 or newer: https://go.dev/doc/install"; exit 1; }
