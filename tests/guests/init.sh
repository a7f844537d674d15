#!/bin/busybox sh
# The first and only program of the test guest: mounts its disk and does what the kernel's command line says.
#
# secondsite.do=records   writes numbered records, and says SYNCED N when N is on the disk (the default); where there is a
#                         second disk with a file system, when it is on both
# secondsite.do=check     counts the records that are whole, says so, and switches off
# secondsite.do=network   asks DHCP for the address of each card, says ADDRESS or NO ADDRESS, and answers pings;
#                         secondsite.static=CARD:ADDRESS gives a card one that DHCP does not,
#                         secondsite.ping=ADDRESS[,...] says again and again whether it REACHES them. With
#                         secondsite.do=records,network beside the records; alone it needs no disk.
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
for _ in 1 2 3; do # which needs which differs between kernels; what this one does not know stays
    for module in /modules/*.ko; do
        [ ! -e "$module" ] || insmod "$module" 2>/dev/null && rm "$module"
    done
done
option() { # the value of an option of the kernel's command line
    sed -n "s/.*secondsite\.$1=\([^ ]*\).*/\1/p" /proc/cmdline
}

network() {
    ip link set lo up
    for card in $(ls /sys/class/net | grep eth); do
        ip link set "$card" up
        static=$(option static | tr ';' '\n' | sed -n "s/^$card://p")
        if [ -n "$static" ]; then
            ip address add "$static" dev "$card"
            echo "ADDRESS $card $static by hand"
        else
            udhcpc -i "$card" -s /bin/lease -n -q -t 5 -T 1 >/dev/null 2>&1 || echo "NO ADDRESS $card"
        fi
    done
    while [ -n "$(option ping)" ]; do
        for address in $(option ping | tr , ' '); do
            if ping -c 1 -W 1 "$address" >/dev/null 2>&1; then echo "REACHES $address"; else echo "MISSES $address"; fi
        done
        sleep 0.2
    done
}

if grep -q 'secondsite.do=[^ ]*network' /proc/cmdline; then
    cat >/bin/lease <<'EOF'
#!/bin/busybox sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev "$interface"
[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
[ -z "$router" ] || ip route add default via "$router" dev "$interface"
echo "ADDRESS $interface $ip/$mask via $router mtu ${mtu:-1500}" >/dev/console
EOF
    chmod +x /bin/lease
    network &
    if ! grep -q 'secondsite.do=[^ ]*records' /proc/cmdline; then
        wait
        while true; do sleep 60; done
    fi
fi
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -b /dev/vda ] || break
    sleep 0.2
done
if ! mount -t ext4 /dev/vda /mnt; then
    echo "GUEST NO DISK"
    poweroff -f
fi
mkdir -p /second
[ ! -b /dev/vdb ] || ! mount -t ext4 /dev/vdb /second || second=1
# A page for whoever asks whether it is up.
mkdir -p /www
echo "GUEST UP" >/www/index.html
httpd -p 80 -h /www

# What its agent calls to shut it down, and its power button does the same: the loop below ends after its record.
mkdir -p /sbin
printf '#!/bin/sh\ntouch /run/down\n' >/sbin/shutdown
chmod 755 /sbin/shutdown
for event in /dev/input/event*; do
    [ ! -c $event ] || (head -c 1 $event >/dev/null && /sbin/shutdown) &
done

if [ -e /dev/vport0p1 ] || [ -e /dev/vport1p1 ]; then
    mkdir -p /run /var/run
    /bin/qemu-ga -m virtio-serial -p /dev/vport?p1 -t /run -f /run/ga.pid &
fi

whole() { # how many records of a log are what they should be, and none is missing; by few processes, however many
    rm -rf /tmp/numbers && mkdir /tmp/numbers
    awk '{ file = sprintf("/tmp/numbers/%07d", NR); print NR >file; close(file) }' "$1"
    find /tmp/numbers -type f | sort | xargs -r md5sum >/tmp/sums
    awk 'FILENAME == "/tmp/sums" { sum[FNR] = $1; next } $1 != FNR || $2 != sum[FNR] { exit } { count = FNR }
        END { print count + 0 }' /tmp/sums "$1"
}
record() { # the next line of a log, on its disk: its number, its checksum, and the word of the boot that wrote it
    echo "$number $(echo $number | md5sum | cut -c1-32) $boot" >>"$1"
    sync -d "$1"
}

boot=$(cut -c1-8 /proc/sys/kernel/random/uuid)
echo "GUEST BOOT $boot"
touch /mnt/log
number=$(whole /mnt/log)
if [ -n "$second" ]; then
    touch /second/log
    also=$(whole /second/log)
    # It writes on the second disk what is on the first one: disks of one instant are apart by that one record.
    if [ "$also" = $((number - 1)) ]; then
        tail -n 1 /mnt/log >>/second/log
        sync -d /second/log
    elif [ "$also" != "$number" ]; then
        echo "GUEST DISKS APART $number $also"
        poweroff -f
    fi
fi
echo "GUEST READY $number"
if grep -q secondsite.do=check /proc/cmdline; then
    umount -a -t ext4
    poweroff -f
fi
while [ ! -e /run/down ]; do
    number=$((number + 1))
    # Beside the records a machine's other writes, some of them over older ones.
    head -c 100000 /dev/urandom >/mnt/file$((number % 7))
    record /mnt/log
    [ -z "$second" ] || record /second/log
    echo "SYNCED $number"
done
umount -a -t ext4 && echo "GUEST DOWN $number"
poweroff -f
