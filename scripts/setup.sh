#!/usr/bin/env bash
# Installs what building, testing and the demo need and this machine lacks. Quick when there is nothing to do.
set -euo pipefail
cd "$(dirname "$0")/.."

# command -> Debian package
declare -A wanted=(
  [cc]=gcc [clang]=clang [nft]=nftables [ip]=iproute2 [ping]=iputils-ping [podman]=podman [crun]=crun [iptables]=iptables
  [busybox]=busybox-static [jq]=jq [tcpdump]=tcpdump [sysctl]=procps [strace]=strace [kubectl]=kubernetes-client [conntrack]=conntrack
  [bird]=bird2 [gobgpd]=gobgpd [vtysh]=frr [chromium-headless-shell]=chromium-headless-shell
)
missing=()
for command in "${!wanted[@]}"; do
  command -v "$command" >/dev/null || missing+=("${wanted[$command]}")
done
[[ -x /usr/lib/cni/portmap ]] || missing+=(containernetworking-plugins)
command -v go >/dev/null || missing+=(golang-go)

if ((${#missing[@]})); then
  echo "== installing ${missing[*]}"
  if [[ $(id -u) != 0 ]]; then
    echo "setup: root is needed to install packages and to run the tests; run this as root" >&2
    exit 1
  fi
  export DEBIAN_FRONTEND=noninteractive
  # The routing daemons are for tests, which start their own: the machine's must not run by themselves.
  policy=/usr/sbin/policy-rc.d
  if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
  fi
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

for step in scripts/kubectl.sh scripts/cnitool.sh; do
  "$step" >/dev/null
done
