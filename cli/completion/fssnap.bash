# SPDX-License-Identifier: BSD-3-Clause
# shellcheck shell=bash
# Completion of fssnap(8) in bash; needs the package bash-completion.
#
# The functions fill COMPREPLY with whole words that may stand in place of
# $cur; the last step is to leave out what bash takes for words before it.

# Numbers and names of the snapshots of the server that the command line
# means: COMMAND [-s PATH].  Silent if there is no server, and not for long
# if there is one that does not answer.  Nothing gets through that the shell
# could expand.
_fssnap_snapshots () {
  timeout 2 "$1" list --json "${@:2}" 2>/dev/null </dev/null |
    sed -n -e 's/^ *"snapnumber": \([0-9][0-9]*\),\{0,1\}$/\1/p' \
      -e 's/^ *"name": "\([A-Za-z0-9][A-Za-z0-9._-]*\)",\{0,1\}$/\1/p'
}

_fssnap_words () { mapfile -t COMPREPLY < <(compgen -W "$*" -- "$cur"); }

# The last item of a list with commas: ITEM...
_fssnap_items () {
  local before=${cur%"${cur##*,}"}
  mapfile -t COMPREPLY < <(compgen -P "$before" -W "$*" -- "${cur##*,}")
}

# A directory, which begins behind the text BEFORE.
_fssnap_directory () {
  compopt -o filenames
  mapfile -t COMPREPLY < <(compgen -P "$1" -d -- "${cur#"$1"}")
}

# A path, which begins behind the text BEFORE.
_fssnap_path () {
  compopt -o filenames
  mapfile -t COMPREPLY < <(compgen -P "$1" -f -- "${cur#"$1"}")
}

_fssnap_create_option () {
  case ${cur##*,} in
    backing-store=* | bs=* | bf=*) _fssnap_path "${cur%"${cur##*=}"}" ;;
    durability=*) _fssnap_items durability={async,written,stable} ;;
    on-error=*) _fssnap_items on-error=break-{snapshot,write} ;;
    *)
      compopt -o nospace
      _fssnap_items {backing-store,bs,bf,backfile-size,chunksize}= \
        {cow-timeout,durability,maxsize,on-error}=
      ;;
  esac
}

_fssnap_info_option () {
  _fssnap_items snapnumber name state export origin mountpoint store \
    ephemeral size createtime backing-store backing-store-len maxsize \
    chunksize backfile-size durability on-error cow-timeout clients \
    chunks-copied chunks-lost chunks-free bytes-copied bytes-in-memory \
    throttled-writers waits flush-errors reads-origin reads-memory \
    reads-backing-file reads-zero deleted broken-reason broken-errno \
    broken-time blocked-by highest
  # There may be more of them.
  compopt -o nospace
}

# What is before the word: the command, a snapshot if there is one, and -s.
# Sets $command, $snapshot and $socket.
_fssnap_look () {
  local i word
  for ((i = 1; i < cword; i++)); do
    word=${words[i]//\\/}
    case $word in
      -s | --socket) socket=(-s "${words[++i]//\\/}") ;;
      --socket=*) socket=(-s "${word#*=}") ;;
      -s*) socket=(-s "${word#-s}") ;;
      -o | --name | --store | --candidates | --freeze | --freeze-timeout | \
        --type | --partition) ((i++)) ;;
      -*) ;;
      *) if [ -z "$command" ]; then command=$word; else snapshot=$word; fi ;;
    esac
  done
}

_fssnap_operand () {
  case $command:$cur in
    :-*) _fssnap_words -s --socket= --help --version ;;
    :*) _fssnap_words create delete list info attach detach mount umount \
      check candidates ;;
    create:*) _fssnap_words -o --name= --candidates= --ephemeral --freeze= \
      --freeze-timeout= -s --socket= --help ;;
    candidates:-*) _fssnap_words --json --type= --help ;;
    candidates:*) [ -n "$snapshot" ] || _fssnap_path '' ;;
    list:*) _fssnap_words --json --all --store= -s --socket= --help ;;
    delete:-*) _fssnap_words --force -s --socket= --help ;;
    info:-*) _fssnap_words --json -o -s --socket= --help ;;
    attach:-*) _fssnap_words --origin --list -s --socket= --help ;;
    detach:-*) _fssnap_words --origin -s --socket= --help ;;
    mount:-*) _fssnap_words --partition= -s --socket= --help ;;
    umount:-*) _fssnap_words -s --socket= --help ;;
    check:-*) _fssnap_words --json --help ;;
    check:*) [ -n "$snapshot" ] || _fssnap_directory '' ;;
    mount:* | umount:*)
      if [ -n "$snapshot" ] || [[ $cur = */* ]]; then
        _fssnap_directory ''
      else
        _fssnap_words "$(_fssnap_snapshots "$1" "${socket[@]}")"
      fi
      ;;
    delete:* | info:* | attach:* | detach:*)
      [ -n "$snapshot" ] ||
        _fssnap_words "$(_fssnap_snapshots "$1" "${socket[@]}")"
      ;;
  esac
  case ${COMPREPLY[*]} in
    *=) compopt -o nospace ;;
  esac
}

_fssnap () {
  local cur prev words cword command='' snapshot='' socket=()
  local types=(auto btrfs exfat ext4 ntfs swap vfat xfs)
  _init_completion -n =: || return
  _fssnap_look
  case $prev:$cur in
    -s:* | --socket:*) _fssnap_path '' ;;
    *:--socket=*) _fssnap_path --socket= ;;
    --store:*) _fssnap_directory '' ;;
    *:--store=*) _fssnap_directory --store= ;;
    --name:* | *:--name=* | --freeze-timeout:* | *:--freeze-timeout=* | \
      --partition:* | *:--partition=*) ;;
    --candidates:*) _fssnap_words "${types[@]}" all ;;
    *:--candidates=*) _fssnap_words "${types[@]/#/--candidates=}" --candidates=all ;;
    --type:*) _fssnap_words "${types[@]}" ;;
    *:--type=*) _fssnap_words "${types[@]/#/--type=}" ;;
    --freeze:*) _fssnap_directory '' ;;
    *:--freeze=*) _fssnap_directory --freeze= ;;
    -o:*)
      case $command in
        create) _fssnap_create_option ;;
        info) _fssnap_info_option ;;
      esac
      ;;
    *) _fssnap_operand "$1" ;;
  esac

  local shown=$cur separator
  for separator in = :; do
    [[ $COMP_WORDBREAKS != *$separator* ]] || shown=${shown##*"$separator"}
  done
  COMPREPLY=("${COMPREPLY[@]#"${cur%"$shown"}"}")
} &&
  complete -F _fssnap fssnap
