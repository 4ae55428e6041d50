#!/usr/bin/env bash
# Slurm on this machine alone: a controller, one node, one queue. For tests and for trying out examples/slurm.
#
#     tests/support/one_node_slurm.sh start FOLDER     # then: export SLURM_CONF=FOLDER/slurm.conf
#     tests/support/one_node_slurm.sh stop FOLDER
#
# It needs root, and Debian's packages slurm-wlm and munge. Its daemons are those of FOLDER; it listens on this machine.
set -euo pipefail
folder=$(realpath "$2")
export SLURM_CONF=$folder/slurm.conf

start() {
  mkdir -p "$folder/state" "$folder/spool" /run/munge
  chown munge: /run/munge
  munge --no-input >"$folder/credential" 2>&1 || runuser -u munge -- munged
  local host megabytes
  host=$(hostname -s)
  megabytes=$(($(awk '/^MemTotal/ {print $2}' /proc/meminfo) / 1280))
  cat >"$SLURM_CONF" <<END
ClusterName=alone
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=cred_expire=10
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
KillWait=30
ReturnToService=2
MpiDefault=none
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$megabytes
PartitionName=all Nodes=ALL Default=YES DefaultTime=60 State=UP
END
  slurmctld
  slurmd
  for _ in $(seq 60); do
    sinfo --noheader --format=%t 2>/dev/null | grep -q idle && return
    sleep 0.5
  done
  echo "the node does not come up; see $folder/slurmctld.log and $folder/slurmd.log" >&2
  return 1
}

stop() {
  scancel --user="$(id -un)" || true
  for _ in $(seq 60); do
    [ -n "$(squeue --noheader)" ] || break
    sleep 1
  done
  for daemon in slurmd slurmctld; do
    [ ! -e "$folder/$daemon.pid" ] || kill "$(cat "$folder/$daemon.pid")" || true
  done
}

case $1 in
  start | stop) "$1" ;;
  *) echo "usage: $0 start|stop FOLDER" >&2; exit 2 ;;
esac
