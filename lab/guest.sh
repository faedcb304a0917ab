# The first thing that runs in a virtual machine of lab/vm.py, which says what it is given.
#   guest.sh TREE SHARE MODULES DEADLINE
# The root is this machine's, read-only; a scratch /tmp, /run and the shared folder are all that can be written.
set -eu
tree=$1 share=$2 modules=$3 deadline=$4

exec >"$share/output" 2>&1
mount -t tmpfs tmpfs /tmp
mkdir -p /run/netns "$tree"

# The tree and /usr once more, cached: what Python imports would else cross the emulated bus each time.
cached=trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro
mount -t 9p -o "$cached" tree "$tree"
mount -t 9p -o "$cached" usr /usr

# Modules are not where modprobe looks, since nothing is installed into this machine.
mkdir /run/bin
printf '#!/bin/sh\nexec /sbin/modprobe -d %s "$@"\n' "$modules" >/run/bin/modprobe
chmod +x /run/bin/modprobe
echo /run/bin/modprobe >/proc/sys/kernel/modprobe

cd "$tree"
export HOME=/tmp PATH=/run/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1
status=0
timeout -k 5 "$deadline" sh "$share/command" || status=$?
echo "$status" >"$share/status"
