#!/bin/sh
# The guest's first process: hands the kernel's command line to guestload, which never ends.
/bin/busybox mkdir -p /proc
/bin/busybox mount -t proc proc /proc
mode=idle mib=0 rate_mib=0 share=4
for word in $(/bin/busybox cat /proc/cmdline); do
    case $word in
    mode=*) mode=${word#*=} ;;
    mib=*) mib=${word#*=} ;;
    rate_mib=*) rate_mib=${word#*=} ;;
    share=*) share=${word#*=} ;;
    esac
done
exec /bin/guestload "$mode" "$mib" "$rate_mib" "$share"
