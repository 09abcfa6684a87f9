# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash disable=SC2034
# A virtual machine for tests; sourced.  It has Debian's kernel and, all in
# memory, busybox and the programs that the test names.  A test tells it what
# to do line by line, and waits for the answer; no one sleeps.  At the end it
# is killed like all else.
# shellcheck source=../interop/functions.sh
. "$(dirname "${BASH_SOURCE[0]}")/../interop/functions.sh"
vm_scripts=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
vm=
console=$dir/console

# What a failure may have to do with.
show_guest () {
  touch "$dir/talk" "$console"
  echo "What the virtual machine was told and said, and its console:"
  tail -n 200 "$dir/talk"
  tail -n 100 "$console"
} >&2

# prepare_guest PROGRAM...: all that needs no server; skips if it is not there.
prepare_guest () {
  [ "$(uname -m)" = x86_64 ] || skip "the virtual machine is one for x86_64"
  require qemu-system-x86_64 busybox cpio ldd "$@"
  kernel=${FSSNAP_KERNEL:?the directory of scripts/fetch-kernel.sh}
  sh "$FSSNAP_SOURCE/scripts/fetch-kernel.sh" "$kernel" >"$dir/fetch" 2>&1 ||
    skip "$(tail -n 3 "$dir/fetch")"
  make_initramfs "$@"
}

# make_initramfs PROGRAM...: by name or path, and with the libraries of each, as
# the host has them.
make_initramfs () {
  local root=$dir/root program path library
  mkdir -p "$root"/{bin,sbin,proc,sys,dev,tmp,etc,modules,host,live,before}
  cp "$vm_scripts/init" "$root/init"
  chmod 755 "$root/init"
  cp "$(command -v busybox)" "$root/bin/busybox"
  ! ldd "$root/bin/busybox" >/dev/null 2>&1 ||
    skip "busybox needs libraries (have busybox-static)"
  for program in $(busybox --list); do
    [ "$program" = busybox ] || ln -s busybox "$root/bin/$program"
  done
  for program; do
    path=$(command -v "$program")
    cp "$path" "$root/host/${program##*/}"
    for library in $(ldd "$path" | grep -o '/[^ ]*'); do
      mkdir -p "$root$(dirname "$library")"
      cp -n "$library" "$root$library"
    done
  done
  cp "$kernel/modules" "$kernel"/*.ko "$root/modules"
  ln -s /proc/mounts "$root/etc/mtab"
  (cd "$root" && find . | cpio -o -H newc --quiet) >"$dir/initramfs"
  rm -rf "$root"
}

# start_guest QEMU-ARGUMENT...: when it returns, the guest listens.
start_guest () {
  mkfifo "$dir/vm.in" "$dir/vm.out"
  undo+=('[ "$status" = 0 ] || show_guest')
  # An emulated processor is everywhere; KVM in a virtual machine may hang.
  qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 512 \
    -nodefaults -no-user-config -display none -no-reboot \
    -kernel "$kernel/vmlinuz" -initrd "$dir/initramfs" \
    -append "console=ttyS0 quiet panic=-1 tsc=reliable random.trust_cpu=on" \
    -serial "file:$console" \
    -chardev stdio,id=talk,signal=off -serial chardev:talk \
    "$@" <"$dir/vm.in" >"$dir/vm.out" 2>"$dir/qemu.log" &
  vm=$!
  undo+=('[ -z "$vm" ] || kill -KILL "$vm" 2>/dev/null')
  exec 5>"$dir/vm.in" 6<"$dir/vm.out"
  answer
}

# answer: print what the guest says, until it is done; its status.
answer () {
  local line
  while read -r -t 150 -u 6 line; do
    echo "$line" >>"$dir/talk"
    case $line in
      '|'*) echo "${line#|}" ;;
      '= '*) return "${line#= }" ;;
    esac
  done
  fail "the guest does not answer: $(cat "$dir/qemu.log")"
}

# guest COMMAND: it is run there, in a shell that stays the same; what it
# prints is printed.  Newlines are spaces: it needs its semicolons, and has to
# be shorter than 4000 bytes.
guest () {
  local command=${1//$'\n'/ }
  echo "$SECONDS> $command" >>"$dir/talk"
  echo "$command" >&5
  answer
}

# in_guest COMMAND: it must succeed.
in_guest () {
  local said
  said=$(guest "$1") || fail "in the guest: $1: $said"
  [ -z "$said" ] || echo "$said"
}

stop_guest () {
  in_guest 'umount -a -t ext4; sync'
  echo 'poweroff -f' >&5
  wait "$vm" || fail "QEMU: $(cat "$dir/qemu.log")"
  vm=
  exec 5>&- 6<&-
  rm -f "$dir/vm.in" "$dir/vm.out"
}

# start_tcp_server PARAMETER...: as start_server, but it also listens on the
# TCP port $port, which the guest finds at 10.0.2.2.
start_tcp_server () {
  start "$dir/pid" run_tcp_server -f -P "$dir/pid" "$FSSNAP_PLUGIN" "$@"
  server=$started
  port=$(cat "$dir/port")
}

run_tcp_server () {
  exec python3 "$vm_scripts/listen.py" "$socket" "$dir/port" \
    env LD_PRELOAD="${FSSNAP_PRELOAD:-}" nbdkit "$@" 2>>"$dir/log"
}
