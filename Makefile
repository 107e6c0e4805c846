# lunar: `make help` lists what there is.

export CGO_ENABLED = 0

PREFIX  ?= /usr/local
DESTDIR ?=
# Where the commands are built.
BIN ?= bin
# Debian's tgt-admin, which `make install-tgt` has its unit run.
TGTADMIN ?= /usr/sbin/tgt-admin
LUNAR_IMG ?= lunar.img

# How long each fuzz target runs: in `make test`, and in `make fuzz`.
FUZZSMOKE ?= 5s
FUZZTIME  ?= 1h
# Bounds one package's tests, in `make test` and in `make e2e`: go test's own bound.
TESTTIME ?= 10m
E2ETIME  ?= 2h
# How long `make soak` runs, and what it does: empty for a seed of its own.
SOAKTIME ?= 10m
SOAKSEED ?=

# What of other people's programs is fetched (scripts/test-deps), and in addition for the long tests.
DEPSETS = test guest tgt
e2e: DEPSETS += qemu postgres trace ceph longhorn

GOLANGCI = github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# What the Go code of admin/api is made with.
export BUF                = github.com/bufbuild/buf/cmd/buf@v1.75.0
export PROTOC_GEN_GO      = google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
export PROTOC_GEN_GO_GRPC = google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
LDFLAGS := $(if $(VERSION),-X main.version=$(VERSION))

.DEFAULT_GOAL := help
.PHONY: help build build-rbd check-rbd test-rbd run test e2e mutate race fuzz soak bench bench-scale bench-admin bench-cluster lint generate man clean install install-tgt uninstall-tgt check-go check-format test-deps

help: ## this list
	@echo 'lunar, an iSCSI target server. Targets:'
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' Makefile

build: check-go ## build every command into bin/ (BIN)
	go build -trimpath -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/...

build-rbd: check-go check-rbd ## the commands with the driver for Ceph RBD (cgo; needs a C compiler, librbd-dev, librados-dev)
	scripts/rbd-env go build -trimpath -ldflags '$(LDFLAGS)' -o '$(BIN)/' ./cmd/...

check-rbd: ## whether build-rbd can work here and, if not, which packages are missing
	@scripts/rbd-env --check

test-rbd: check-go check-rbd ## the tests of the driver for Ceph RBD, against a cluster that they start
	scripts/rbd-env go vet ./backstore/rbd/...
	scripts/rbd-env go test -p 1 -timeout $(TESTTIME) ./backstore/rbd/...

run: build ## serve a 1 GiB sparse file (LUNAR_IMG, default ./lunar.img) as a disk on 127.0.0.1:3260
	@scripts/run "$(LUNAR_IMG)"

test: check-go check-format test-deps ## everything that CI needs: format, vet, short fuzzing, all tests
	go vet ./...
	scripts/fuzz $(FUZZSMOKE)
	go test -p 1 -timeout $(TESTTIME) ./...

e2e: check-go test-deps ## the long rest (tests with the build tag e2e)
	go vet -tags e2e ./...
	go test -p 1 -timeout $(E2ETIME) -tags e2e ./test/... ./backstore/nbd
	@if scripts/rbd-env --check; then $(MAKE) --no-print-directory test-rbd; else [ -z "$$LUNAR_CI" ]; fi

mutate: check-go ## break the code in each way that test/mutation lists: the test named there must fail
	go test -count=1 -timeout $(E2ETIME) -tags e2e -v -run 'TestMutants$$' ./test/mutation

race: check-go test-deps ## all tests with the race detector, lunard built with it too (needs a C compiler)
	CGO_ENABLED=1 LUNAR_RACE=1 go test -race -p 1 -timeout $(E2ETIME) ./...

fuzz: check-go ## every fuzz target for FUZZTIME (default 1h) each
	scripts/fuzz $(FUZZTIME)

soak: check-go ## random initiators, faults, kills and drains for SOAKTIME (default 10m), all checked; SOAKSEED=N does the same again
	go run ./test/soak -time $(SOAKTIME) $(if $(SOAKSEED),-seed $(SOAKSEED))

bench: build ## lunar beside its peers; the table goes to docs/bench/
	scripts/test-deps test bench
	go run ./test/bench

bench-scale: build ## 1,000 targets and 10,000 sessions in one process
	go run ./test/scale

bench-admin: build ## what administration costs a busy target, and the load administration
	go run ./test/adminbench

bench-cluster: check-go ## an RBD image through lunar, through tgtd and by the driver alone; NBD beside a file
	scripts/test-deps test ceph clusterbench
	scripts/rbd-env go run ./test/clusterbench

lint: check-go ## golangci-lint with .golangci.yml, and buf over admin/api, built from their modules on first use
	go run $(GOLANGCI) run ./...
	scripts/generate-api -lint

generate: check-go ## what is generated: docs/rfc7143.md, and the Go code of admin/api where its .proto files have changed
	go run ./tools/rfcwalk -w
	scripts/generate-api

# unit NAME,FOLDER: the unit below FOLDER, with the paths of this installation.
unit = sed -e 's|@bindir@|$(PREFIX)/bin|g' -e 's|@sbindir@|$(PREFIX)/sbin|g' -e 's|@tgtadmin@|$(TGTADMIN)|g' \
	scripts/systemd/$(1) >'$(2)/$(1)' && chmod 0644 '$(2)/$(1)'
unitdir = $(DESTDIR)$(PREFIX)/lib/systemd/system

man: build ## manual pages of lunarctl, and its completions for bash, zsh and fish, into bin/manual/
	rm -rf '$(BIN)/manual'
	'$(BIN)/lunarctl' manual '$(BIN)/manual'

share = $(DESTDIR)$(PREFIX)/share

install: build man ## install lunard, lunarctl with its manual, and lunard.service below DESTDIR and PREFIX (/usr/local)
	install -d '$(DESTDIR)$(PREFIX)/bin' '$(unitdir)' '$(share)/man/man1' '$(share)/bash-completion/completions' \
		'$(share)/zsh/site-functions' '$(share)/fish/vendor_completions.d'
	install -m 0755 '$(BIN)/lunard' '$(BIN)/lunarctl' '$(DESTDIR)$(PREFIX)/bin/'
	install -m 0644 '$(BIN)'/manual/man1/*.1 '$(share)/man/man1/'
	install -m 0644 '$(BIN)/manual/completions/lunarctl' '$(share)/bash-completion/completions/'
	install -m 0644 '$(BIN)/manual/completions/_lunarctl' '$(share)/zsh/site-functions/'
	install -m 0644 '$(BIN)/manual/completions/lunarctl.fish' '$(share)/fish/vendor_completions.d/'
	$(call unit,lunard.service,$(unitdir))

install-tgt: build ## install lunard as tgtd, our tgtadm and tgt.service, to take tgt's place (docs/tgt.md)
	install -d '$(DESTDIR)$(PREFIX)/sbin' '$(unitdir)'
	install -m 0755 '$(BIN)/lunard' '$(DESTDIR)$(PREFIX)/sbin/tgtd'
	install -m 0755 '$(BIN)/tgtadm' '$(DESTDIR)$(PREFIX)/sbin/tgtadm'
	$(call unit,tgt.service,$(unitdir))

uninstall-tgt: ## remove what install-tgt has installed
	rm -f '$(DESTDIR)$(PREFIX)/sbin/tgtd' '$(DESTDIR)$(PREFIX)/sbin/tgtadm' '$(unitdir)/tgt.service'

clean: ## remove what was built; the disk image of `make run` stays
	rm -rf bin
	go clean -testcache

check-go:
	@scripts/check-go

check-format:
	@unformatted=$$(gofmt -l .); \
	if [ -n "$$unformatted" ]; then echo "not formatted (gofmt -w):"; echo "$$unformatted"; exit 1; fi

# Without the network a developer's tests skip what they lack; where LUNAR_CI is set they would fail, and
# say so here already.
test-deps:
	@scripts/test-deps $(DEPSETS) || { [ -z "$$LUNAR_CI" ] && echo 'test-deps: going on; tests that lack a program are skipped'; }
