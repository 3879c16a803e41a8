#!/bin/busybox sh
# Switches the PostgreSQL guest off in order: the server ends as by `pg_ctl stop --mode fast`, the disk is unmounted.
B=/bin/busybox
PID=$($B head -n 1 /data/var/lib/postgresql/data/postmaster.pid)
$B kill -INT "$PID"
while [ -e "/proc/$PID" ]; do
    $B usleep 20000
done
$B umount /data/dev/shm
$B umount /data/dev
$B umount /data/proc
if ! $B umount /data; then
    echo "UNDYING: cannot unmount the disk" > /dev/console
    exit 1
fi
$B poweroff -f
