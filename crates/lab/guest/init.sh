#!/bin/busybox sh
# Process 1 of the Linux guests: loads the virtio drivers, sets the addresses of the kernel command line
# (ud.ip=10.78.0.50/24 ud.ip6=fd78::50/64), starts the pulse program, and goes on with /serve, which starts the
# server of this guest and says READY on the console. With ud.disk=/dev/vda the ext4 there is mounted at /data.
B=/bin/busybox
$B mount -t proc proc /proc
$B mount -t sysfs sysfs /sys
$B mount -t devtmpfs dev /dev
for M in $($B cat /modules/order); do
    $B insmod "/modules/$M" || echo "UNDYING: cannot load the module $M"
done

IP= IP6= PULSE= DISK=
for WORD in $($B cat /proc/cmdline); do
    case "$WORD" in
    ud.ip=*) IP=${WORD#ud.ip=} ;;
    ud.ip6=*) IP6=${WORD#ud.ip6=} ;;
    ud.pulse=*) PULSE=${WORD#ud.pulse=} ;;
    ud.disk=*) DISK=${WORD#ud.disk=} ;;
    esac
done

$B ip link set lo up
if [ -e /sys/class/net/eth0 ]; then
    # Duplicate address detection would leave the IPv6 address unusable for the first second.
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_ra
    $B ip link set eth0 up
    [ -n "$IP" ] && $B ip addr add "$IP" dev eth0
    [ -n "$IP6" ] && $B ip addr add "$IP6" dev eth0
else
    echo "UNDYING: the guest sees no network card"
fi
echo 1 > /proc/sys/vm/overcommit_memory
echo 1024 > /proc/sys/net/core/somaxconn

MOUNTED=
if [ -n "$DISK" ]; then
    $B mkdir /data
    if $B mount -t ext4 "$DISK" /data; then
        MOUNTED=/data
    else
        echo "UNDYING: cannot mount $DISK"
    fi
fi

/bin/pulse serve $PULSE &
. /serve
# Process 1 must not end, and collects the processes whose parents did.
while true; do
    wait
    $B sleep 3600
done
