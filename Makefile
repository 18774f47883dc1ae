# The targets that a developer needs; CI calls .ci/run.
.PHONY: all build test race demo gen lint bench ci

all: gen lint test

build:
	go build -trimpath -o talos ./cmd/talos

test:
	go test ./...

race:
	go test -race ./...

demo:
	go run ./cmd/talos testnet up --once

gen:
	go generate ./contracts

lint:
	gofmt -l $$(git ls-files '*.go')
	go vet ./...

# Results belong in docs/benchmarks.md.
bench:
	go test -run '^$$' -bench . -benchmem ./identity ./ratchet/... ./anchor/... ./node/...

ci:
	bash .ci/run
