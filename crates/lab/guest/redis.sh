# Goes on from init.sh in the Redis guest. With a disk Redis keeps its data there, and answers no write before it is on it.
STORE=
[ -n "$MOUNTED" ] && STORE="--dir $MOUNTED --appendonly yes --appendfsync always"
/bin/redis-server /etc/redis.conf $STORE > /dev/console 2>&1 &
if /bin/pulse wait-redis; then
    echo "READY $($B cut -d' ' -f1 /proc/uptime)"
else
    echo "UNDYING: redis does not answer"
fi
