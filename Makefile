# Everything a developer runs. Without HOME, Go keeps its caches in the work tree.
ifeq ($(wildcard $(or $(HOME),/nonexistent)/.),)
export GOCACHE ?= $(CURDIR)/.cache/go-build
export GOPATH ?= $(CURDIR)/.cache/go
endif

GO ?= go
LINT = $(GO) tool -modfile=lint.mod golangci-lint

.PHONY: build test race lint fmt bench

build: ## bin/twlab, static, so that it runs in any namespace
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/twlab ./cmd/twlab

test: ## all tests, on real sockets
	$(GO) test -timeout 10m ./...

race: ## the tests that share memory between goroutines, with the race detector
	$(GO) test -race -timeout 10m ./internal/... ./measure/... ./client/... ./server/... ./results/... ./scenarios/... ./lab/...

lint: ## what the linters say
	$(LINT) run ./...

fmt: ## format the code
	$(LINT) fmt ./...

bench: ## speed, as ratios measured side by side in one run; wants a quiet machine
	$(GO) test -p 1 -run "^$$" -bench . -benchtime 3x ./...
