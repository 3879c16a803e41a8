# Goes on from init.sh in the PostgreSQL guest: the server and all it needs are on the disk, and it runs from there.
CLUSTER=/data/var/lib/postgresql/data
$B mount -t proc proc /data/proc
$B mount -t devtmpfs dev /data/dev
$B mkdir -p /data/dev/shm
$B mount -t tmpfs -o mode=1777 tmpfs /data/dev/shm
# What a guest that was switched off left there: no server runs yet, and its "ready" is an old one.
$B rm -f "$CLUSTER/postmaster.pid"
$B chroot /data /bin/busybox start-stop-daemon -S -c postgres:postgres -x "$($B cat /data/etc/server)" -- \
    -D /var/lib/postgresql/data > /dev/console 2>&1 &
SERVER=$!
# PostgreSQL writes there how far it is. A recovery from its log may take a while.
until $B grep -qs '^ready' "$CLUSTER/postmaster.pid"; do
    if ! [ -e "/proc/$SERVER" ]; then
        echo "UNDYING: postgres ended"
        break
    fi
    $B usleep 20000
done
$B grep -qs '^ready' "$CLUSTER/postmaster.pid" && echo "READY $($B cut -d' ' -f1 /proc/uptime)"
