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

bench: build ## speed, as ratios measured side by side in one run, and false alarms of comparisons; wants a quiet machine
	$(GO) test -p 1 -run "^$$" -bench . -benchtime 3x ./...
	pool=$$(mktemp -d) && trap 'rm -rf "$$pool"' EXIT && \
	bin/twlab run keepalive --variant keepalive --set traffic.count=400 --set hold=200ms --repeat 64 -q -o "$$pool/run" >/dev/null && \
	TWLAB_POOL="$$pool/run" $(GO) test ./results/compare -run "^$$" -bench FalseAlarms -benchtime 2000x
