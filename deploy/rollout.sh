#!/usr/bin/env bash
# Replaces the replicas of docker-compose.yml one by one, by ones of the image that it names now (BATON_IMAGE): first those
# that are not healthy, then the others, of which none goes while no other is healthy. Each drains before it goes, and the
# next waits until the new one is ready. Where that does not get ready, the others serve on, and the next roll-out mends it.
set -euo pipefail
cd "$(dirname "$0")/.."

compose() {
  if docker compose version >/dev/null 2>&1; then docker compose "$@"; else docker-compose "$@"; fi
}

health() { docker inspect --format '{{.State.Health.Status}}' "$1"; }

# another_is_healthy REPLICA
another_is_healthy() {
  local other
  for other in $(compose ps -q baton); do
    if [ "$other" != "$1" ] && [ "$(health "$other")" = healthy ]; then return 0; fi
  done
  return 1
}

wait_until_healthy() {
  local state
  until state=$(docker inspect --format '{{.State.Health.Status}}, started again {{.RestartCount}} times' "$1") \
    && [ "${state%,*}" = healthy ]; do
    if [ "$state" != "starting, started again 0 times" ]; then
      echo "$1 is $state; docker logs $1 says why" >&2
      exit 1
    fi
    sleep 1
  done
}

healthy=() failing=()
for replica in $(compose ps -q baton); do
  if [ "$(health "$replica")" = healthy ]; then healthy+=("$replica"); else failing+=("$replica"); fi
done
count=$((${#failing[@]} + ${#healthy[@]}))
for replica in "${failing[@]}" "${healthy[@]}"; do
  if [ "$(health "$replica")" = healthy ] && ! another_is_healthy "$replica"; then
    echo "$replica is the only one that is healthy, so it serves on; first add another: up -d --no-recreate --scale baton=2" >&2
    exit 1
  fi
  docker stop -t 35 "$replica"
  docker rm "$replica"
  left=$(compose ps -q baton)
  compose up --detach --no-deps --no-build --no-recreate --scale "baton=$count" baton
  wait_until_healthy "$(compose ps -q baton | grep -vxF "$left")"
done
