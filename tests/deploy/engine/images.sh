#!/usr/bin/env bash
# Brings the images that the Dockerfile and docker-compose.yml name onto a Docker engine: each is pulled or, where no
# registry can be reached, made of Debian's packages under the same name. A stand-in holds what its namesake holds, in
# Debian's version and with the same user, folders and command; grafana.Dockerfile says what it is. The bases trust the
# certificates and ask the indexes of pip that this machine does. Needs debootstrap, and root for it.
set -euo pipefail
cd "$(dirname "$0")"

is_there() { docker image inspect "$1" >/dev/null 2>&1 || docker pull -q "$1"; }

# make_base IMAGE PACKAGE...: bookworm without its documentation
make_base() {
  local image=$1 root; shift
  root=$(mktemp -d)
  debootstrap --variant=minbase --include="$(IFS=,; echo "$*")" bookworm "$root" \
    >"$root.log" || { cat "$root.log"; return 1; }
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* \
    "$root"/usr/share/{doc,info,lintian,locale,man}/*
  if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$root/etc/"; fi
  cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
  tar -C "$root" -c . | docker import - "$image"
  rm -rf "$root" "$root.log"
}

is_there debian:bookworm-slim || make_base debian:bookworm-slim ca-certificates
is_there python:3.11-slim-bookworm || make_base python:3.11-slim-bookworm ca-certificates netbase python3-venv tzdata
sed -n 's/^ *image: //p' ../../../docker-compose.yml | while read -r image; do
  stand_in=${image%:*} stand_in=${stand_in##*/}.Dockerfile
  [ ! -e "$stand_in" ] || is_there "$image" || docker build -q -t "$image" - <"$stand_in"
done
