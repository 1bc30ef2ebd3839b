#!/bin/sh
# SGLang's router (pip install sglang-router, 0.3.2) in front of two replicas: docs/fleet.md says why each flag is there.
# Arguments are added: ./sglang-router.sh --log-level debug
#
# cache_aware sends what begins alike to the same replica, unless that has 16 requests more than the other. /ready is asked
# every second, and one failure is enough: so a replica that drains gets nothing more.
exec sglang-router launch \
    --worker-urls http://sparkv-1:8080 http://sparkv-2:8080 \
    --host 0.0.0.0 --port 8000 \
    --policy cache_aware --balance-abs-threshold 16 \
    --health-check-endpoint /ready --health-check-interval-secs 1 --health-check-timeout-secs 5 \
    --health-failure-threshold 1 --health-success-threshold 1 \
    --retry-max-retries 3 --retry-initial-backoff-ms 50 --retry-max-backoff-ms 1000 \
    --cb-failure-threshold 3 --cb-success-threshold 1 --cb-timeout-duration-secs 5 \
    "$@"
