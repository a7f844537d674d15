#!/bin/busybox sh
# The first and only program of the test guest: mounts its disk and does what the kernel's command line says.
#
# secondsite.do=records   writes numbered records, and says SYNCED N when N is on the disk (the default)
# secondsite.do=check     counts the records that are whole, says so, and switches off
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
mount -t proc none /proc
mount -t sysfs none /sys
for _ in 1 2 3; do # which needs which differs between kernels
    for module in /modules/*.ko; do
        insmod $module 2>/dev/null
    done
done
for _ in 1 2 3 4 5 6 7 8 9 10; do
    [ ! -b /dev/vda ] || break
    sleep 0.2
done
if ! mount -t ext4 /dev/vda /mnt; then
    echo "GUEST NO DISK"
    poweroff -f
fi
if [ -e /dev/vport0p1 ] || [ -e /dev/vport1p1 ]; then
    mkdir -p /run /var/run
    /bin/qemu-ga -m virtio-serial -p /dev/vport?p1 -t /run -f /run/ga.pid &
fi

whole() { # how many records of the log are what they should be, and none is missing
    count=0
    while read -r number sum; do
        [ "$number" = $((count + 1)) ] && [ "$sum" = "$(echo "$number" | md5sum | cut -c1-32)" ] || break
        count=$number
    done </mnt/log
    echo $count
}

touch /mnt/log
number=$(whole)
echo "GUEST READY $number"
if grep -q secondsite.do=check /proc/cmdline; then
    umount /mnt
    poweroff -f
fi
while true; do
    number=$((number + 1))
    echo "$number $(echo $number | md5sum | cut -c1-32)" >>/mnt/log
    # Beside the records a machine's other writes, some of them over older ones.
    head -c 100000 /dev/urandom >/mnt/file$((number % 7))
    sync -d /mnt/log
    echo "SYNCED $number"
done
