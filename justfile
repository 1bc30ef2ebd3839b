# Short names for everyday commands; `just` lists them.

_default:
    @just --list

# Build the optimized binary: target/release/sparkv
build:
    cargo build --release

# Build for this machine's own instructions; the binary runs on machines like it only
build-native:
    RUSTFLAGS="-C target-cpu=native" cargo build --release

# Serve the demo model; arguments are passed on: just serve --kv balanced
serve *arguments:
    cargo run --release -- serve {{ arguments }}

# Answer one prompt: just run "What is the code?"
run *arguments:
    cargo run --release -- run {{ arguments }}

# All tests, as in CI; arguments are passed on
test *arguments:
    cargo test --workspace {{ arguments }}

# Official clients against the optimized binary, and the server against its own description
clients: build
    tests/clients/run target/release/sparkv
    tests/clients/contract target/release/sparkv

# The page in a browser, from the optimized binary
web: build
    tests/web/run target/release/sparkv

# Two replicas behind each balancer (needs HAProxy and nginx, or leaves them out)
fleet: build
    tests/fleet/run target/release/sparkv

# Manifests and charts against Kubernetes' schemas (needs kubectl or kustomize, helm or npm)
manifests:
    scripts/check/manifests

# An image for CPUs: docker run --rm -p 127.0.0.1:8080:8080 sparkv
image:
    docker build -f docker/Dockerfile -t sparkv .

# An image for an NVIDIA GPU of this compute capability, without the dot: just image-cuda 90
image-cuda capability:
    docker build -f docker/Dockerfile.cuda --build-arg CUDA_COMPUTE_CAP={{ capability }} -t sparkv-cuda .

# What is for GPUs, on a machine without one: the code for CUDA and Metal, the kernels in both languages
devices *sections:
    scripts/check/devices {{ sections }}

# Formatting and lints, as in CI
lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings

# Format the code
format:
    cargo fmt

# Layers, licences and advisories (needs cargo-deny)
deny:
    cargo deny --workspace check

# The documentation of all crates
doc:
    cargo doc --workspace --no-deps --open

# Everything that CI checks
ci:
    .ci/run
