# The door: every target is documented by `make help`; CI calls the same targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PY := .venv/bin/python
BPF_SOURCES := $(wildcard agent/bpf/*.c agent/bpf/*.h)
C_SOURCES := $(BPF_SOURCES) $(wildcard cni/shim/*.c bench/*.c tests/fuzz/*.c)
# Asked when a recipe needs it: before `system`, a machine may have no gcc.
MULTIARCH = $(shell gcc -print-multiarch)

BPF_CFLAGS = -target bpf -mcpu=v3 -O2 -g -Wall -Wextra -Werror -Wimplicit-fallthrough \
	-Iagent/bpf -isystem /usr/include/$(MULTIARCH)
SHIM_CFLAGS := -static -Os -std=c11 -Wall -Wextra -Werror -Wimplicit-fallthrough -ffunction-sections -fdata-sections \
	-Wl,--gc-sections -Wl,--build-id=none -s -ffile-prefix-map=$(CURDIR)=.

# Two processes of tests, for two cores; what stays together in one of them says tests/conftest.py.
SIDE_BY_SIDE := -n 2 --dist loadgroup --no-loadscope-reorder

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

.PHONY: system unit build
system:
	@lab/prepare system
unit:
	@lab/prepare unit
build: system build/ilanet.bpf.o build/ilanet build/traffic build/cri/cri_pb2.py ## compile the BPF object and the CNI executable

build/ilanet.bpf.o: $(BPF_SOURCES) | system
	@mkdir -p build
	clang $(BPF_CFLAGS) -c agent/bpf/ilanet.bpf.c -o $@.tmp
	llvm-strip -g $@.tmp
	mv $@.tmp $@

build/ilanet: $(wildcard cni/shim/*.c cni/shim/*.h) | system
	@mkdir -p build
	musl-gcc $(SHIM_CFLAGS) $(wildcard cni/shim/*.c) -o $@.tmp
	mv $@.tmp $@

build/traffic: bench/traffic.c | system
	@mkdir -p build
	gcc -O2 -std=c11 -Wall -Wextra -Werror $< -o $@

build/cri/cri_pb2.py: lab/cri.proto | system
	@mkdir -p build/cri
	$(PY) -m grpc_tools.protoc -Ibuild/cri=lab --python_out=. --grpc_python_out=. build/cri/cri.proto

.PHONY: demo up down shell status
demo: build ## the main job: three hosts, six pods, shown step by step, then removed
	@$(PY) -m lab demo
up: build ## bring a network like the demo's up and leave it running; one that is well stays as it is
	@$(PY) -m lab up
down: system ## take the network of make up down
	@$(PY) -m lab down
shell: system ## enter a pod of the network of make up: make shell POD=pod1a
	@$(PY) -m lab shell $(POD)
status: system ## ask every agent of the network of make up what it does, and say what is wrong
	@$(PY) -m lab status

.PHONY: go cluster cluster-down kubectl
go: system
	@lab/prepare cluster
cluster: build go ## bring a real Kubernetes of three nodes up with ilanet, and leave it running; the first time builds it
	@$(PY) -m lab.kubernetes up
cluster-down: system ## take that Kubernetes down
	@$(PY) -m lab.kubernetes down
kubectl: system ## ask it: make kubectl WORDS='get pods -A'
	@$(PY) -m lab.kubernetes kubectl -- $(WORDS)

.PHONY: image
image: system ## build the images of deploy/Dockerfile and report their size; a minute, seconds when Python code changed
	@$(PY) -m lab.kubernetes.build_image

.PHONY: test-unit
test-unit: unit ## the tests that need no root; seconds
	$(PY) -m pytest -q tests/unit

.PHONY: test
test: build ## every test but test-cluster and check-deploy; needs root, a quarter of an hour
	$(PY) -m pytest tests --ignore=tests/cluster --ignore=tests/deploy $(SIDE_BY_SIDE) $(OPTIONS)

.PHONY: test-cri
test-cri: build ## pods on a real containerd: life, restarts, kills, waves (OUTAGE=3600: etcd is away for an hour)
	$(PY) -m pytest tests/cri $(OPTIONS)

.PHONY: test-cluster
test-cluster: build go ## two real Kubernetes side by side, with ilanet, pods, Services, names; minutes, and a quarter of an hour to build it once
	@$(PY) -m lab.kubernetes build
	$(PY) -m pytest tests/cluster $(SIDE_BY_SIDE) $(OPTIONS)

.PHONY: test-kind
test-kind: build go ## the same tests on a kind cluster, which needs Docker and kind; not yet run
	@$(PY) -m lab.kubernetes.kind $(OPTIONS)

.PHONY: conformance conformance-others
conformance: build go ## Kubernetes' own network tests against a cluster with ilanet; writes docs/conformance.md; half an hour
	@$(PY) -m lab.kubernetes.conformance $(OPTIONS)
conformance-others: build go ## those that are no must but need no cloud; writes docs/conformance-others.md; twenty minutes
	@$(PY) -m lab.kubernetes.conformance --others $(OPTIONS)

.PHONY: test-vm
test-vm: build ## the tests that boot Debian's kernel 6.1: Linux's own ILA as judge, no tcx; minutes
	$(PY) -m pytest tests/vm

.PHONY: verifier-counts
verifier-counts: build ## measure what the verifier walks here and on 6.1; writes tests/bpf/verifier.json
	$(PY) -m tests.bpf.counts

.PHONY: test-faults
test-faults: build ## harm to every part under traffic, some 200 times, and what it cost; half an hour
	@$(PY) -m bench.faults $(OPTIONS)

.PHONY: bench-rr bench-add bench-load
bench-rr: build ## pod to pod: TCP_RR and bulk TCP against plain IPv6 and VXLAN; 5 minutes
	@$(PY) -m bench.rr $(OPTIONS)
bench-add: build ## ADD and DEL through the CNI executable, step by step
	@$(PY) -m bench.add $(OPTIONS)
bench-load: build ## a million mappings from etcd into the kernel
	@$(PY) -m bench.load $(OPTIONS)

.PHONY: bench-scale
bench-scale: build go ## a hundred pods on one node of a real Kubernetes, against Debian's ptp; a quarter of an hour
	@$(PY) -m bench.scale $(OPTIONS)

.PHONY: matrix
matrix: build ## every CNI rule on ilanet and on Debian's ptp and bridge; writes docs/cni-matrix.md
	@$(PY) -m tests.netns.columns $(OPTIONS)

.PHONY: check
check: system go ## lint, types, import contracts, generated files, C layout, manifests
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	clang-format --dry-run --Werror $(C_SOURCES)
	$(MAKE) --no-print-directory proto OUT=build/proto-check
	diff -r -x __pycache__ build/proto-check/proto proto
	$(MAKE) --no-print-directory check-deploy

.PHONY: check-deploy
check-deploy: system go build/cri/cri_pb2.py ## manifests and chart: one renders as the other, policy, schemas; builds kubectl and Helm once
	@$(PY) -m lab.kubernetes renderers
	$(PY) -m pytest -q tests/deploy

.PHONY: proto
OUT := .
proto: ## generate the gRPC stubs in proto/ from the .proto files
	@mkdir -p $(OUT)/proto && for f in proto/*.proto proto/__init__.py; do [ $$f -ef $(OUT)/$$f ] || cp $$f $(OUT)/$$f; done
	$(PY) -m grpc_tools.protoc -I. --python_out=$(OUT) --pyi_out=$(OUT) --grpc_python_out=$(OUT) proto/*.proto

.PHONY: lock
lock: unit ## pin the dependencies of requirements*.in with hashes
	for f in requirements requirements-cli requirements-dev requirements-cluster; do .venv/bin/uv pip compile -q --upgrade --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header -o $$f.txt $$f.in; done

.PHONY: format
format: unit ## lay out Python and C
	.venv/bin/ruff check --fix -q . || true
	.venv/bin/ruff format -q .
	clang-format -i $(C_SOURCES)

.PHONY: clean
clean: ## remove what was built
	rm -rf build .venv
