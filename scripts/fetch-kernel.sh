#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Fetch a kernel for the tests' virtual machines, without installing it:
#   fetch-kernel.sh DIR
# makes DIR with "vmlinuz", the modules that the tests load, and "modules",
# their names in the order of loading.  If DIR is there nothing is done, and
# no network is needed.  The kernel is Debian's for virtual machines: it is
# small, boots in seconds, and has ext4 built in.
set -eu

# Each after those that it needs.
modules='virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev
virtio_pci failover net_failover virtio_net virtio_blk nbd'
package=linux-image-cloud-amd64

[ $# = 1 ] || { echo "usage: fetch-kernel.sh DIR" >&2; exit 2; }
mkdir -p "$(dirname "$1")"
target=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")

give_up () { echo "fetch-kernel.sh: $*" >&2; exit 1; }

# Several tests may come here at a time.
exec 9>"$target.lock"
flock 9
[ ! -e "$target/modules" ] || exit 0

for command in apt-get apt-cache dpkg-deb; do
  command -v $command >/dev/null || give_up "there is no $command"
done

work=$target.new
rm -rf "$work"
mkdir -p "$work/files"
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"

# The package itself is empty, and needs one that has a version in its name.
# The directory may be one that apt's own user cannot write to.
download () {
  image=$(apt-cache depends "$package" 2>/dev/null |
    sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
  [ -n "$image" ] &&
    timeout 200 apt-get -q -o APT::Sandbox::User=root download "$image"
}

# What apt knows may be older than what there is.
download >log 2>&1 ||
  { timeout 100 apt-get -q update && download; } >>log 2>&1 ||
  { cat log >&2; give_up "apt-get cannot fetch $package"; }

dpkg-deb -x "$image"_*.deb files
cp files/boot/vmlinuz-* vmlinuz
for module in $modules; do
  find files -name "$module.ko" -exec cp {} . \;
  [ -e "$module.ko" ] || give_up "$image has no module $module"
done
rm -rf files log ./*.deb
# shellcheck disable=SC2086 # a list of names
printf '%s\n' $modules >modules
rm -rf "$target"
mv "$work" "$target"
