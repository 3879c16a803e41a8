#!/bin/busybox sh
# Process 1 of the guest of the deterministic machine: loads the drivers, sets the address of the kernel command line
# (ud.ip=10.78.0.50/24 ud.ip6=fd78::50/64), mounts the ext4 disk /dev/vda at /data if ud.disk=/dev/vda says so, starts Redis and says
# READY; with ud.console=hvc0 it goes on there, and says so. A line `off` or `reboot` on the console ends it in order,
# any other line is run by the shell. A line `reboot` or `poweroff` on a connection to port 7007 ends it at once.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs dev /dev
for M in $($B cat /modules/order); do
    $B insmod "/modules/$M" || echo "UNDYING: cannot load the module $M"
done
IP= IP6= DISK= REDIS=yes OFF= CONSOLE=
for WORD in $($B cat /proc/cmdline); do
    case "$WORD" in
    ud.ip=*) IP=${WORD#ud.ip=} ;;
    ud.ip6=*) IP6=${WORD#ud.ip6=} ;;
    ud.disk=*) DISK=${WORD#ud.disk=} ;;
    ud.redis=no) REDIS= ;;
    ud.off=yes) OFF=yes ;;
    ud.console=*) CONSOLE=/dev/${WORD#ud.console=} ;;
    esac
done
$B ip link set lo up
if [ -n "$IP" ]; then
    # Duplicate address detection would leave the IPv6 address unusable for the first second.
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra
    $B ip link set eth0 up
    $B ip addr add "$IP" dev eth0
    [ -n "$IP6" ] && $B ip addr add "$IP6" dev eth0
    while ORDER=$($B nc -l -p 7007 < /dev/null | $B head -n 1); do
        case "$ORDER" in
        reboot) $B reboot -f ;;
        poweroff) $B poweroff -f ;;
        esac
    done &
fi
STORE=
if [ -n "$DISK" ]; then
    $B mkdir -p /data
    if $B mount -t ext4 "$DISK" /data; then
        STORE="--dir /data --appendonly yes --appendfsync always"
        # A boot's mark, durable.
        echo boot >> /data/boots
        $B sync
        echo "UNDYING: $($B wc -l < /data/boots) boots"
    else
        echo "UNDYING: cannot mount $DISK"
    fi
fi
if [ -n "$REDIS" ]; then
    echo 1 > /proc/sys/vm/overcommit_memory
    /bin/redis-server /etc/redis.conf $STORE > /dev/console 2>&1 &
    SERVER=$!
    until $B printf 'PING\r\nQUIT\r\n' | $B nc 127.0.0.1 6379 2> /dev/null | $B grep -q PONG; do
        $B sleep 0.1
    done
fi
echo "UNDYING: it is $($B date -u +%Y) here"
echo "READY"
[ -n "$OFF" ] && $B poweroff -f
if [ -n "$CONSOLE" ]; then
    exec < "$CONSOLE" > "$CONSOLE" 2>&1
    echo "UNDYING: the console is $CONSOLE"
fi
while read -r LINE; do
    case "$LINE" in
    off | reboot)
        [ -n "$REDIS" ] && $B killall redis-server && wait "$SERVER"
        [ -n "$DISK" ] && $B umount /data
        [ "$LINE" = off ] && $B poweroff -f
        $B reboot -f
        ;;
    *)
        eval "$LINE"
        ;;
    esac
done
