#!/bin/sh
# SPDX-License-Identifier: BSD-3-Clause
# Install the Debian packages that the named groups need, those that are
# missing only:  setup.sh GROUP...
set -eu

packages_of () {
  case $1 in
    make) echo make ;;
    build) echo gcc libc6-dev meson ninja-build pkg-config perl nbdkit \
      nbdkit-plugin-dev liburing-dev libisal-dev libjansson-dev libnbd-dev \
      libcmocka-dev libfuse3-dev uuid-dev libblkid-dev libext2fs-dev \
      comerr-dev ntfs-3g-dev ;;
    demo) echo bash libnbd-bin qemu-utils e2fsprogs python3 ;;
    check) echo bash-completion clang fio fuse3 mount util-linux e2fsprogs \
      xfsprogs btrfs-progs dosfstools exfat-fuse exfatprogs ntfs-3g fdisk mtools \
      busybox-static cpio nbd-client qemu-block-extra qemu-system-x86 ;;
    bench) echo fio gnuplot-nox python3 qemu-system-common qemu-utils strace ;;
    lint) echo clang-format clang-tidy cppcheck shellcheck ;;
    *) echo "setup.sh: there is no group '$1'" >&2; exit 1 ;;
  esac
}

installed () {
  case $(dpkg-query -W -f '${Status}' "$1" 2>/dev/null) in
    *' ok installed') true ;;
    *) false ;;
  esac
}

missing=
for group; do
  packages=$(packages_of "$group")
  for package in $packages; do
    if command -v dpkg-query >/dev/null && installed "$package"; then
      continue
    fi
    missing="$missing $package"
  done
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
  # meson says what is really missing.
  echo "This is no Debian: have what it calls$missing"
  exit 0
fi
sudo=
if [ "$(id -u)" != 0 ]; then
  sudo=sudo
  command -v sudo >/dev/null || {
    echo "Missing, and only root can install them:$missing" >&2
    exit 1
  }
fi
echo "Installing:$missing"
$sudo apt-get -q update
# shellcheck disable=SC2086 # a list of names
$sudo env DEBIAN_FRONTEND=noninteractive \
  apt-get -q install -y --no-install-recommends $missing </dev/null
